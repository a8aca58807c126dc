import { basename } from "node:path";
import type { ByteSource } from "../../formats/source.js";
import { decodable, decode } from "../blocks/decode/decode.js";
import { findBlockType, rowBytes } from "../blocks/table.js";
import type { Reporter } from "./progress.js";
import { PieceReader, type StoredTensor, TILE_VALUES } from "./stored-tensors.js";

/** More tensors than this and a message explains no more than its length does; the report has them all. */
const SHOWN_TENSORS = 5;

/** A tensor with values that no weight may have, and where the first of them is. */
export interface BadTensor {
  readonly name: string;
  readonly type: string;
  /** Base name of the file that holds it. */
  readonly file: string;
  /** Counted from 0 over all dimensions but the fastest. */
  readonly row: number;
  readonly column: number;
  readonly value: "NaN" | "Infinity" | "-Infinity";
  /** How many values of the tensor are not finite. */
  readonly values: number;
}

/** Types of which every bit pattern is a number: there is nothing to look for. */
const INTEGERS: ReadonlySet<string> = new Set(["BOOL", "U8", "I8", "U16", "I16", "U32", "I32", "U64", "I64"]);

/** The same of ONNX. Most of a model lies in them, packed; whether all of it can be read is worth knowing. */
const ONNX_INTEGERS: readonly string[] = [
  "BOOL",
  "UINT8",
  "INT8",
  "UINT16",
  "INT16",
  "UINT32",
  "INT32",
  "UINT64",
  "INT64",
  "UINT4",
  "INT4",
  "UINT2",
  "INT2",
];

/** What of a piece is not finite. */
interface Found {
  readonly count: number;
  /** Index in the piece, and the value there. */
  readonly first: number;
  readonly value: BadTensor["value"];
}

/** Counts numbers whose exponent bits are all set, which is what NaN and the infinities have in common. */
function scanBits(bits: Uint16Array | Uint32Array, exponent: number): { count: number; first: number } {
  let count = 0;
  for (let index = 0; index < bits.length; index++) {
    if ((bits[index]! & exponent) === exponent) count++;
  }
  return { count, first: count === 0 ? -1 : bits.findIndex((word) => (word & exponent) === exponent) };
}

function nameOf(bits: number, sign: number, fraction: number): BadTensor["value"] {
  if ((bits & fraction) !== 0) return "NaN";
  return (bits & sign) === 0 ? "Infinity" : "-Infinity";
}

function words16(piece: Uint8Array): Uint16Array {
  return new Uint16Array(piece.buffer, piece.byteOffset, piece.length / 2);
}

function words32(piece: Uint8Array | Float32Array): Uint32Array {
  return new Uint32Array(piece.buffer, piece.byteOffset, piece.byteLength / 4);
}

function scan16(piece: Uint8Array, exponent: number): Found {
  const bits = words16(piece);
  const found = scanBits(bits, exponent);
  return { ...found, value: nameOf(bits[found.first] ?? 0, 0x8000, 0x7fff ^ exponent) };
}

function scan32(piece: Uint8Array | Float32Array): Found {
  const bits = words32(piece);
  const found = scanBits(bits, 0x7f800000);
  return { ...found, value: nameOf(bits[found.first] ?? 0, 0x80000000, 0x007fffff) };
}

function scan64(piece: Uint8Array): Found {
  const values = new Float64Array(piece.buffer, piece.byteOffset, piece.length / 8);
  const count = values.reduce((sum, value) => sum + (Number.isFinite(value) ? 0 : 1), 0);
  const first = values.findIndex((value) => !Number.isFinite(value));
  return { count, first, value: String(values[first]) as BadTensor["value"] };
}

/** How to look through a type: bytes of a full tile, and what is not finite in one. */
interface Scanner {
  readonly bytes: number;
  readonly scan: (piece: Uint8Array) => Found;
}

/** Plain numbers are judged by their bits: there is nothing to decode. */
const plainScanners: ReadonlyMap<string, Scanner> = new Map([
  ["F32", { bytes: 4 * TILE_VALUES, scan: scan32 }],
  ["F16", { bytes: 2 * TILE_VALUES, scan: (piece: Uint8Array) => scan16(piece, 0x7c00) }],
  ["BF16", { bytes: 2 * TILE_VALUES, scan: (piece: Uint8Array) => scan16(piece, 0x7f80) }],
  ["F64", { bytes: 8 * TILE_VALUES, scan: scan64 }],
]);

const NOTHING: Found = { count: 0, first: -1, value: "NaN" };

/** Scanners of ONNX's element types, by the names that they have there. */
const onnxScanners: ReadonlyMap<string, Scanner> = new Map([
  ["FLOAT", plainScanners.get("F32")!],
  ["FLOAT16", plainScanners.get("F16")!],
  ["BFLOAT16", plainScanners.get("BF16")!],
  ["DOUBLE", plainScanners.get("F64")!],
  ...ONNX_INTEGERS.map((type) => [type, { bytes: 4 * TILE_VALUES, scan: () => NOTHING }] as const),
]);

/** ONNX graphs hide positions from attention by a single infinity, which is no weight. */
function isMask({ type, values }: StoredTensor, { value }: Found): boolean {
  return values === 1 && value !== "NaN" && onnxScanners.has(type);
}

/** Scans tensors one after another; what is decoded is decoded into one buffer. */
class TensorScanner {
  readonly #reader: PieceReader;
  readonly #values = new Float32Array(TILE_VALUES);
  readonly #onBytes: (bytes: number) => void;

  constructor(reader: PieceReader, onBytes: (bytes: number) => void) {
    this.#reader = reader;
    this.#onBytes = onBytes;
  }

  /** What is wrong with a tensor: null for nothing, `unread` when its type is not known. */
  async scan(tensor: StoredTensor): Promise<BadTensor | "unread" | null> {
    const scanner = this.#scannerOf(tensor.type);
    if (scanner === undefined) {
      this.#onBytes(tensor.bytes);
      return INTEGERS.has(tensor.type) ? null : "unread";
    }
    let seen = 0;
    let values = 0;
    let first: (Found & { readonly at: number }) | undefined;
    for await (const piece of this.#reader.pieces(tensor, scanner.bytes)) {
      const found = scanner.scan(piece);
      if (found.count > 0) first ??= { ...found, at: seen + found.first };
      values += found.count;
      seen += TILE_VALUES;
      this.#onBytes(piece.length);
    }
    if (first === undefined || isMask(tensor, first)) return null;
    const { name, type, path, ne } = tensor;
    const width = ne[0] ?? 1;
    return {
      name,
      type,
      file: basename(path),
      row: Math.floor(first.at / width),
      column: first.at % width,
      value: first.value,
      values,
    };
  }

  #scannerOf(name: string): Scanner | undefined {
    const plain = plainScanners.get(name) ?? onnxScanners.get(name);
    const type = findBlockType(name)?.name;
    if (plain !== undefined || type === undefined || !decodable.includes(type)) return plain;
    const bytes = rowBytes(type, TILE_VALUES);
    return {
      bytes,
      scan: (piece) => {
        const values = this.#values.subarray(0, (piece.length / bytes) * TILE_VALUES);
        decode(type, piece, values);
        return scan32(values);
      },
    };
  }
}

/** What was found in tensors. */
export interface ScannedTensors {
  /** Tensors with values that are not finite, in the order given. */
  readonly bad: readonly BadTensor[];
  /** Tensors whose type lapidary does not read (F8 and the like): nothing is known of them. */
  readonly unread: readonly { readonly name: string; readonly type: string }[];
}

/**
 * Looks at every value of every tensor.
 *
 * @param files by the paths that the tensors give
 * @throws FormatError when a file cannot be read; the signal's reason after an abort
 */
export async function scanTensors(
  label: string,
  tensors: readonly StoredTensor[],
  files: ReadonlyMap<string, ByteSource>,
  reporter: Reporter,
  signal: AbortSignal,
): Promise<ScannedTensors> {
  const total = tensors.reduce((sum, { bytes }) => sum + bytes, 0);
  const bad: BadTensor[] = [];
  const unread: { name: string; type: string }[] = [];
  let done = 0;
  reporter.start(label);
  const scanner = new TensorScanner(new PieceReader(files, signal), (bytes) => {
    done += bytes;
    reporter.progress({ done, total, unit: "bytes" });
  });
  for (const tensor of tensors) {
    const outcome = await scanner.scan(tensor);
    if (outcome === "unread") unread.push({ name: tensor.name, type: tensor.type });
    else if (outcome !== null) bad.push(outcome);
  }
  const count = `${tensors.length} ${tensors.length === 1 ? "tensor" : "tensors"}`;
  reporter.finish(bad.length === 0 ? count : `${count}, ${bad.length} damaged`);
  return { bad, unread };
}

/** One sentence on the tensors that are damaged. */
export function badSentence(path: string, bad: readonly BadTensor[]): string {
  const shown = bad
    .slice(0, SHOWN_TENSORS)
    .map(({ name, row, column, value }) => `${name} (${value} at row ${row}, column ${column})`);
  const rest = bad.length - shown.length;
  const more = rest > 0 ? `, and ${rest} more` : "";
  const hold = bad.length === 1 ? "1 tensor holds" : `${bad.length} tensors hold`;
  return `${path}: ${hold} values that are not finite, expected numbers only: ${shown.join(", ")}${more}`;
}
