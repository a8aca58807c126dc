import { dirname, join } from "node:path";
import { openFile } from "../../formats/file-source.js";
import { type OnnxModel, openOnnx } from "../../formats/onnx/read.js";
import { distinctTensors } from "../../formats/onnx/storage.js";
import type { OnnxTensor } from "../../formats/onnx/tensors.js";
import type { ByteSource } from "../../formats/source.js";
import type { ReportedError } from "../base/errors.js";
import { type GraphFinding, lintFile } from "./inspect-onnx.js";
import type { OnnxFile } from "./onnx-source.js";
import type { Reporter } from "./progress.js";
import { type BadTensor, badSentence, type ScannedTensors, scanTensors } from "./scan-tensors.js";
import type { StoredTensor } from "./stored-tensors.js";

/** More findings than this and the message explains no more than its length does; the report has them all. */
const SHOWN_FINDINGS = 3;

/** Offsets between tensors inside a graph file; none is larger than the file, which may have 2^29 bytes. */
const SLOT = 2 ** 30;

/** Tensors that lie in the graph file, under offsets of our own. */
class InlineTensors implements ByteSource {
  readonly name: string;
  readonly #tensors: Uint8Array[] = [];

  constructor(name: string) {
    this.name = name;
  }

  get size(): number {
    return this.#tensors.length * SLOT;
  }

  /** @returns the offset at which the bytes can be read */
  add(bytes: Uint8Array): number {
    return (this.#tensors.push(bytes) - 1) * SLOT;
  }

  /** Fills `target` with bytes of one tensor. */
  async read(target: Uint8Array, position: number): Promise<void> {
    const start = position % SLOT;
    const bytes = this.#tensors[Math.floor(position / SLOT)]?.subarray(start, start + target.length);
    if (bytes?.length !== target.length) throw new RangeError(`${this.name} has no bytes at ${position}`);
    target.set(bytes);
  }

  async close(): Promise<void> {}
}

/** A data file under the name that the graph gives it; where its links lead says nothing to a reader. */
function dataPath({ path }: OnnxModel, location: string): string {
  return join(dirname(path), location);
}

/** The tensors of a model with the place of their bytes; texts have none. */
function storedTensors(model: OnnxModel, inline: InlineTensors): StoredTensor[] {
  const stored = (tensor: OnnxTensor): StoredTensor[] => {
    const { name, path, type, dims, byteLength, place } = tensor;
    if (place.kind === "strings") return [];
    const at =
      place.kind === "inline"
        ? { path: inline.name, offset: inline.add(place.bytes) }
        : { path: dataPath(model, place.location), offset: place.offset };
    return [
      {
        name: name === "" ? path : name,
        type,
        ne: dims.toReversed(),
        values: dims.reduce((product, size) => product * size, 1),
        bytes: byteLength,
        ...at,
      },
    ];
  };
  return distinctTensors(model.tensors).flatMap(stored);
}

/** Reads every tensor of a model once. */
async function scanModel(
  model: OnnxModel,
  reporter: Reporter,
  signal: AbortSignal,
): Promise<ScannedTensors & { readonly tensors: readonly StoredTensor[] }> {
  const inline = new InlineTensors(model.path);
  const tensors = storedTensors(model, inline);
  const files = new Map<string, ByteSource>([[inline.name, inline]]);
  try {
    for (const { location, path } of model.dataFiles.values()) {
      files.set(dataPath(model, location), await openFile(path));
    }
    return { tensors, ...(await scanTensors(`check ${model.path}`, tensors, files, reporter, signal)) };
  } finally {
    for (const file of files.values()) await file.close();
  }
}

function findingsSentence(path: string, errors: readonly GraphFinding[]): string {
  const shown = errors.slice(0, SHOWN_FINDINGS).map(({ file, node, message }) => {
    const where = node === null ? file : `${file}, ${node}`;
    return `${where}: ${message.replace(/\.$/, "")}`;
  });
  const rest = errors.length - shown.length;
  const more = rest > 0 ? `; and ${rest} more` : "";
  const count = errors.length === 1 ? "1 error" : `${errors.length} errors`;
  return `${path}: ${count} in the graph, expected none: ${shown.join("; ")}${more}`;
}

function errorOf(
  path: string,
  bad: readonly BadTensor[],
  findings: readonly GraphFinding[],
): ReportedError | null {
  const errors = findings.filter(({ severity }) => severity === "error");
  const sentences = [
    ...(bad.length === 0 ? [] : [badSentence(path, bad)]),
    ...(errors.length === 0 ? [] : [findingsSentence(path, errors)]),
  ];
  if (sentences.length === 0) return null;
  const damaged = "Make the file again from sound weights, or fetch it again.";
  return {
    code: bad.length > 0 ? "non-finite" : "onnx-lint",
    message: `${sentences.join("; ")}.`,
    advice: bad.length > 0 ? damaged : (errors[0]?.advice ?? damaged),
    exitCode: 1,
  };
}

/** What was found in graphs and their tensors, and what of it is an error. */
export interface OnnxCheck extends ScannedTensors {
  readonly tensors: number;
  readonly values: number;
  readonly bytes: number;
  readonly findings: readonly GraphFinding[];
  readonly error: ReportedError | null;
}

/**
 * Looks at every graph, and at every value of its tensors, which must be finite; a single infinity is taken for
 * a mask. Bytes that tensors share are read once.
 *
 * @throws OnnxError, FormatError for a graph or data file that cannot be read; the signal's reason after an abort
 */
export async function checkOnnx(
  path: string,
  files: readonly OnnxFile[],
  reporter: Reporter,
  signal: AbortSignal,
): Promise<OnnxCheck> {
  const all: StoredTensor[] = [];
  const bad: BadTensor[] = [];
  const unread: { name: string; type: string }[] = [];
  const findings: GraphFinding[] = [];
  for (const named of files) {
    const model = await openOnnx(named.path);
    findings.push(...lintFile(named, model).map((finding) => ({ file: named.file, ...finding })));
    const scanned = await scanModel(model, reporter, signal);
    all.push(...scanned.tensors);
    bad.push(...scanned.bad);
    unread.push(...scanned.unread);
  }
  return {
    tensors: all.length,
    values: all.reduce((sum, { values }) => sum + values, 0),
    bytes: all.reduce((sum, { bytes }) => sum + bytes, 0),
    bad,
    unread,
    findings,
    error: errorOf(path, bad, findings),
  };
}
