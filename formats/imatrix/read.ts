import { openFile } from "../file-source.js";
import { readGguf } from "../gguf/read.js";
import type { GgufFile, GgufTensor } from "../gguf/types.js";
import type { ByteSource } from "../source.js";
import { ImatrixError } from "./errors.js";
import { readLegacy } from "./legacy.js";
import { CHUNK_COUNT_KEY, CHUNK_SIZE_KEY, COUNTS, DATASETS_KEY, SUMS } from "./names.js";
import type { ImportanceEntry, ImportanceMatrix, StoredEntry, SummedMatrix } from "./types.js";
import { checkValues, MAX_VALUES_BYTES, shared } from "./values.js";

const MAGIC = 0x46554747;

/** A float32 list of the file. */
async function floatsOf(source: ByteSource, { name, offset, byteLength, type }: GgufTensor) {
  if (type !== "F32") {
    throw new ImatrixError("imatrix-type", `${source.name}: ${name} is ${type}, expected F32.`);
  }
  const floats = shared(byteLength / 4);
  await source.read(new Uint8Array(floats.buffer), offset);
  return floats;
}

interface Pair {
  sums?: GgufTensor;
  counts?: GgufTensor;
}

function pairsOf(file: GgufFile): Map<string, Pair> {
  const pairs = new Map<string, Pair>();
  for (const tensor of file.tensors) {
    const suffix = [SUMS, COUNTS].find((end) => tensor.name.endsWith(end));
    if (suffix === undefined) continue;
    const name = tensor.name.slice(0, -suffix.length);
    const pair = pairs.get(name) ?? {};
    if (suffix === SUMS) pair.sums = tensor;
    else pair.counts = tensor;
    pairs.set(name, pair);
  }
  return pairs;
}

async function readEntry(source: ByteSource, name: string, { sums, counts }: Pair): Promise<StoredEntry> {
  if (sums === undefined || counts === undefined) {
    throw new ImatrixError(
      "imatrix-pair",
      `${source.name}: ${name} has ${sums === undefined ? COUNTS : SUMS} without ${sums === undefined ? SUMS : COUNTS}.`,
    );
  }
  const values = await floatsOf(source, sums);
  const tokens = await floatsOf(source, counts);
  if (tokens.length === 0 || values.length === 0 || values.length % tokens.length !== 0) {
    throw new ImatrixError(
      "imatrix-shape",
      `${source.name}: ${name} has ${values.length} sums for ${tokens.length} counts, expected a multiple.`,
    );
  }
  checkValues(source.name, name, values);
  checkValues(source.name, name, tokens);
  // As llama.cpp takes them.
  for (const [matrix, count] of tokens.entries()) tokens[matrix] = Math.round(count);
  return { name, columns: values.length / tokens.length, sums: values, counts: tokens };
}

async function readGgufMatrix(source: ByteSource): Promise<SummedMatrix> {
  const file = await readGguf(source);
  const datasets = file.metadata.get(DATASETS_KEY);
  const chunks = file.metadata.get(CHUNK_COUNT_KEY);
  const chunkTokens = file.metadata.get(CHUNK_SIZE_KEY);
  if (
    datasets?.type !== "array" ||
    datasets.of !== "string" ||
    chunks?.type !== "u32" ||
    chunkTokens?.type !== "u32"
  ) {
    throw new ImatrixError(
      "imatrix-metadata",
      `${source.name}: ${DATASETS_KEY}, ${CHUNK_COUNT_KEY} or ${CHUNK_SIZE_KEY} is missing, expected an importance matrix.`,
      { exitCode: 2, advice: "Make one with llama-imatrix; a model is no importance matrix." },
    );
  }
  const bytes = file.tensors.reduce((sum, { byteLength }) => sum + byteLength, 0);
  if (bytes > MAX_VALUES_BYTES) {
    throw new ImatrixError(
      "imatrix-size",
      `${source.name}: ${bytes} bytes of values, expected at most ${MAX_VALUES_BYTES}.`,
    );
  }
  const entries = new Map<string, StoredEntry>();
  for (const [name, pair] of pairsOf(file)) entries.set(name, await readEntry(source, name, pair));
  return {
    path: source.name,
    format: "gguf",
    datasets: [...datasets.value],
    chunks: chunks.value,
    chunkTokens: chunkTokens.value,
    entries,
  };
}

/**
 * Reads the sums and counts of an importance matrix in llama.cpp's GGUF format or in the `.dat` format of older
 * versions.
 *
 * @throws ImatrixError when it is none, is damaged, or holds values that no sum of squares can have
 * @throws FormatError when the file cannot be read
 */
export async function readSums(path: string): Promise<SummedMatrix> {
  const source = await openFile(path);
  try {
    const start = new Uint8Array(Math.min(4, source.size));
    await source.read(start, 0);
    const isGguf = start.length === 4 && new DataView(start.buffer).getUint32(0, true) === MAGIC;
    const matrix = isGguf ? await readGgufMatrix(source) : await readLegacy(source);
    if (matrix.entries.size > 0) return matrix;
    throw new ImatrixError("imatrix-empty", `${path}: no entries, expected an importance matrix.`);
  } finally {
    await source.close();
  }
}

/** Divides the sums of an entry by its counts, in their place. */
function divide({ name, columns, sums, counts }: StoredEntry, isLegacy: boolean): ImportanceEntry {
  for (const [matrix, tokens] of counts.entries()) {
    const one = sums.subarray(matrix * columns, (matrix + 1) * columns);
    const count = Math.fround(tokens);
    if (count > 0) for (const [column, sum] of one.entries()) one[column] = sum / count;
    // As llama.cpp does: sums of the old format without calls are taken as they are.
    else if (!isLegacy) one.fill(1);
  }
  return { name, matrices: counts.length, values: sums };
}

/**
 * Reads an importance matrix: what `readSums` reads, as means.
 *
 * @throws ImatrixError, FormatError as `readSums`
 */
export async function readImportance(path: string): Promise<ImportanceMatrix> {
  const { entries, ...head } = await readSums(path);
  const isLegacy = head.format === "legacy";
  return { ...head, entries: new Map([...entries].map(([name, entry]) => [name, divide(entry, isLegacy)])) };
}
