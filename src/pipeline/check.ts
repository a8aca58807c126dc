import { stat } from "node:fs/promises";
import { basename, dirname, join } from "node:path";
import type { ReportedError } from "../base/errors.js";
import { decodable, decode } from "../blocks/decode/decode.js";
import { findBlockType, rowBytes } from "../blocks/table.js";
import { PipelineError } from "./errors.js";
import { type HashedFile, hashFiles } from "./hash.js";
import { MANIFEST_NAME, type Manifest, readManifest } from "./manifest.js";
import type { Reporter } from "./progress.js";
import { type ModelSource, openSource } from "./source.js";
import { PieceReader, type StoredTensor, storedTensors, TILE_VALUES, withFiles } from "./stored-tensors.js";

/** More tensors than this and the message explains no more than its length does; the report has them all. */
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

export interface CheckedFile {
  readonly file: string;
  readonly bytes: number;
  /** Null where it was not needed: the file is not in the manifest, or its size is wrong already. */
  readonly sha256: string | null;
  /** What the manifest says; null when the file is not in it. */
  readonly expected: Pick<HashedFile, "bytes" | "sha256"> | null;
}

export interface ManifestCheck {
  readonly path: string;
  /** `none`: the folder has no manifest; `unlisted`: it does not name (all parts of) the file. */
  readonly state: "matches" | "differs" | "unlisted" | "none" | "unreadable";
  readonly files: readonly CheckedFile[];
}

/** What `inspect --check --json` prints. */
export interface CheckReport {
  readonly kind: "check";
  readonly source: "checkpoint" | "gguf";
  readonly path: string;
  readonly tensors: number;
  readonly values: number;
  readonly bytes: number;
  /** Tensors with values that are not finite, in file order. */
  readonly bad: readonly BadTensor[];
  /** Tensors of a checkpoint whose dtype lapidary does not read (F8 and the like): nothing is known of them. */
  readonly unread: readonly { readonly name: string; readonly type: string }[];
  /** Null for a checkpoint: manifests list what was made from one. */
  readonly manifest: ManifestCheck | null;
  /** What is wrong; null when all is well. */
  readonly error: ReportedError | null;
}

/** Types of which every bit pattern is a number. */
const INTEGERS: ReadonlySet<string> = new Set(["BOOL", "U8", "I8", "U16", "I16", "U32", "I32", "U64", "I64"]);

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
    if (first === undefined) return null;
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
    const plain = plainScanners.get(name);
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

/** Looks at every value of every tensor. */
async function scanTensors(
  label: string,
  tensors: readonly StoredTensor[],
  reporter: Reporter,
  signal: AbortSignal,
): Promise<Pick<CheckReport, "bad" | "unread">> {
  const total = tensors.reduce((sum, { bytes }) => sum + bytes, 0);
  const bad: BadTensor[] = [];
  const unread: { name: string; type: string }[] = [];
  let done = 0;
  reporter.start(label);
  await withFiles(tensors, async (files) => {
    const scanner = new TensorScanner(new PieceReader(files, signal), (bytes) => {
      done += bytes;
      reporter.progress({ done, total, unit: "bytes" });
    });
    for (const tensor of tensors) {
      const outcome = await scanner.scan(tensor);
      if (outcome === "unread") unread.push({ name: tensor.name, type: tensor.type });
      else if (outcome !== null) bad.push(outcome);
    }
  });
  const count = `${tensors.length} ${tensors.length === 1 ? "tensor" : "tensors"}`;
  reporter.finish(bad.length === 0 ? count : `${count}, ${bad.length} damaged`);
  return { bad, unread };
}

function recordOf(manifest: Manifest, file: string): HashedFile | undefined {
  return manifest.artifacts.flatMap(({ files }) => files).find((record) => record.file === file);
}

function stateOf(files: readonly CheckedFile[]): ManifestCheck["state"] {
  const differs = files.some(
    ({ bytes, sha256, expected }) =>
      expected !== null && (bytes !== expected.bytes || sha256 !== expected.sha256),
  );
  if (differs) return "differs";
  return files.some(({ expected }) => expected === null) ? "unlisted" : "matches";
}

interface AgainstManifest {
  readonly check: ManifestCheck;
  /** Why the manifest cannot be read. */
  readonly failure: PipelineError | null;
}

/** Holds files against the manifest of their folder, if it names them. */
async function checkManifest(
  paths: readonly string[],
  reporter: Reporter,
  signal: AbortSignal,
): Promise<AgainstManifest> {
  const folder = dirname(paths[0] ?? "");
  const path = join(folder, MANIFEST_NAME);
  let manifest: Manifest | null;
  try {
    manifest = await readManifest(folder);
  } catch (error) {
    if (!(error instanceof PipelineError)) throw error;
    return { check: { path, state: "unreadable", files: [] }, failure: error };
  }
  if (manifest === null) return { check: { path, state: "none", files: [] }, failure: null };
  const files: { path: string; file: string; bytes: number; expected: HashedFile | undefined }[] = [];
  for (const path of paths) {
    const file = basename(path);
    files.push({ path, file, bytes: (await stat(path)).size, expected: recordOf(manifest, file) });
  }
  const worthHashing = files.filter(({ bytes, expected }) => bytes === expected?.bytes);
  const hashed = new Map<string, string>();
  if (worthHashing.length > 0) {
    const label = `hash ${worthHashing.map(({ file }) => file).join(", ")}`;
    const hashes = await hashFiles(
      worthHashing.length > 2 ? `hash ${worthHashing.length} parts` : label,
      worthHashing.map(({ path }) => path),
      reporter,
      signal,
    );
    for (const { file, sha256 } of hashes) hashed.set(file, sha256);
  }
  const checked = files.map(({ file, bytes, expected }) => ({
    file,
    bytes,
    sha256: hashed.get(file) ?? null,
    expected: expected === undefined ? null : { bytes: expected.bytes, sha256: expected.sha256 },
  }));
  return { check: { path, state: stateOf(checked), files: checked }, failure: null };
}

/** One sentence on the tensors that are damaged. */
function badSentence(path: string, bad: readonly BadTensor[]): string {
  const shown = bad
    .slice(0, SHOWN_TENSORS)
    .map(({ name, row, column, value }) => `${name} (${value} at row ${row}, column ${column})`);
  const rest = bad.length - shown.length;
  const more = rest > 0 ? `, and ${rest} more` : "";
  const hold = bad.length === 1 ? "1 tensor holds" : `${bad.length} tensors hold`;
  return `${path}: ${hold} values that are not finite, expected numbers only: ${shown.join(", ")}${more}`;
}

function fileSentence(manifest: string, { file, bytes, sha256, expected }: CheckedFile): string | null {
  if (expected === null) return null;
  if (bytes !== expected.bytes)
    return `${file} has ${bytes} bytes, expected ${expected.bytes} by ${manifest}`;
  if (sha256 !== expected.sha256)
    return `${file} has SHA-256 ${sha256}, expected ${expected.sha256} by ${manifest}`;
  return null;
}

/** All that is wrong, as one error. */
function errorOf(
  path: string,
  bad: readonly BadTensor[],
  manifest: AgainstManifest | null,
): ReportedError | null {
  const sentences = bad.length === 0 ? [] : [badSentence(path, bad)];
  const { check, failure } = manifest ?? { check: null, failure: null };
  const files = check?.files.flatMap((file) => fileSentence(check.path, file) ?? []) ?? [];
  sentences.push(...files);
  if (failure !== null) sentences.push(failure.message.replace(/\.$/, ""));
  if (sentences.length === 0) return null;
  const changed = "The file was changed or damaged after it was made: make it again, or fetch it again.";
  const damaged = "Make the file again from sound weights, or fetch it again.";
  const code = bad.length > 0 ? "non-finite" : files.length > 0 ? "hash-mismatch" : "manifest";
  const advice = files.length > 0 ? changed : bad.length > 0 ? damaged : failure?.advice;
  return {
    code,
    message: `${sentences.join("; ")}.`,
    ...(advice === undefined ? {} : { advice }),
    exitCode: 1,
  };
}

function pathsOf(source: ModelSource): readonly string[] | null {
  return source.kind === "gguf" ? source.model.paths : null;
}

/**
 * Reads all of a model: every value of every tensor must be finite, and a GGUF that the manifest of its
 * folder lists must be the file that was listed. What is wrong is in the report, not thrown.
 *
 * @param path GGUF file (any part of a split one), or the folder of a checkpoint
 * @throws LapidaryError of the rooms that read, for a file that cannot be read at all; the signal's reason
 *   after an abort
 */
export async function check(path: string, reporter: Reporter, signal: AbortSignal): Promise<CheckReport> {
  const source = await openSource(path);
  const tensors = storedTensors(source, "own");
  const paths = pathsOf(source);
  const manifest = paths === null ? null : await checkManifest(paths, reporter, signal);
  const { bad, unread } = await scanTensors(`check ${path}`, tensors, reporter, signal);
  return {
    kind: "check",
    source: source.kind,
    path,
    tensors: tensors.length,
    values: tensors.reduce((sum, { values }) => sum + values, 0),
    bytes: tensors.reduce((sum, { bytes }) => sum + bytes, 0),
    bad,
    unread,
    manifest: manifest?.check ?? null,
    error: errorOf(path, bad, manifest),
  };
}
