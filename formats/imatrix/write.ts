import { gguf } from "../gguf/values.js";
import { createGguf, planGguf } from "../gguf/write.js";
import type { OutputOptions } from "../output-files.js";
import { ImatrixError } from "./errors.js";
import { CHUNK_COUNT_KEY, CHUNK_SIZE_KEY, COUNTS, DATASETS_KEY, SUMS } from "./names.js";
import type { ImatrixContents, SummedEntry } from "./types.js";
import { checkValues, MAX_VALUES_BYTES } from "./values.js";

function asFloats(values: Float32Array | Float64Array): Float32Array {
  return values instanceof Float32Array ? values : Float32Array.from(values);
}

/** What no reader could make sense of is not written, nor sums that every reader would drop. */
function checkEntry(path: string, { name, columns, sums, counts }: SummedEntry): void {
  if (!Number.isSafeInteger(columns) || columns < 1 || counts.length === 0) {
    throw new ImatrixError(
      "imatrix-shape",
      `${path}: ${name} has ${counts.length} matrices of ${columns} columns, expected at least 1 of each.`,
    );
  }
  if (sums.length !== columns * counts.length) {
    throw new ImatrixError(
      "imatrix-shape",
      `${path}: ${name} has ${sums.length} sums, expected ${counts.length} × ${columns}.`,
    );
  }
  checkValues(path, name, asFloats(sums));
  checkValues(path, name, asFloats(counts));
  for (const [matrix, count] of counts.entries()) {
    if (!Number.isInteger(count)) {
      throw new ImatrixError(
        "imatrix-value",
        `${path}: count ${matrix} of ${name} is ${count}, expected a whole number.`,
      );
    }
    const one = sums.subarray(matrix * columns, (matrix + 1) * columns);
    if (count === 0 && one.some((sum) => sum > 0)) {
      throw new ImatrixError("imatrix-value", `${path}: matrix ${matrix} of ${name} has sums of 0 tokens.`);
    }
  }
}

/** Entries in the order of the bytes of their names, as llama-imatrix sorts them. */
function sorted(entries: Iterable<SummedEntry>): SummedEntry[] {
  return [...entries]
    .map((entry) => ({ entry, bytes: Buffer.from(entry.name) }))
    .toSorted((a, b) => Buffer.compare(a.bytes, b.bytes))
    .map(({ entry }) => entry);
}

function plan({ datasets, chunks, chunkTokens }: ImatrixContents, entries: readonly SummedEntry[]) {
  return planGguf({
    metadata: [
      ["general.type", gguf.string("imatrix")],
      [DATASETS_KEY, gguf.array("string", datasets)],
      [CHUNK_COUNT_KEY, gguf.u32(chunks)],
      [CHUNK_SIZE_KEY, gguf.u32(chunkTokens)],
    ],
    tensors: entries.flatMap(({ name, columns, counts: { length } }) => [
      // ggml leaves out trailing dimensions of 1, but always has one.
      { name: name + SUMS, type: "F32", ne: length === 1 ? [columns] : [columns, length] },
      { name: name + COUNTS, type: "F32", ne: length === 1 ? [1] : [1, length] },
    ]),
  });
}

/**
 * Writes an importance matrix in the GGUF format of llama-imatrix, byte for byte as that does: entries sorted by
 * name, sums and counts in float32. A matrix that no token reached keeps its count of 0, and readers give it ones.
 * The file appears under its name whole or not at all.
 *
 * @returns size of the file in bytes
 * @throws ImatrixError `imatrix-empty`, `imatrix-shape`, `imatrix-size`, `imatrix-value` (not finite in float32,
 *   negative, a broken count, or sums of no token)
 * @throws GgufError for a name or number that the format cannot hold; a name has at most 55 bytes
 * @throws OutputError when the file cannot be written, or is there and `overwrite` is not set
 */
export async function writeImatrix(
  path: string,
  contents: ImatrixContents,
  options: OutputOptions = {},
): Promise<number> {
  const entries = sorted(contents.entries);
  if (entries.length === 0) {
    throw new ImatrixError("imatrix-empty", `${path}: no entries to write, expected at least one.`);
  }
  if (contents.chunkTokens < 1) {
    throw new ImatrixError(
      "imatrix-metadata",
      `${path}: windows have ${contents.chunkTokens} tokens, expected at least 1.`,
    );
  }
  for (const entry of entries) checkEntry(path, entry);
  const layout = plan(contents, entries);
  const bytes = layout.tensors.reduce((sum, { byteLength }) => sum + byteLength, 0);
  if (bytes > MAX_VALUES_BYTES) {
    throw new ImatrixError(
      "imatrix-size",
      `${path}: ${bytes} bytes of values, expected at most ${MAX_VALUES_BYTES}.`,
    );
  }
  const output = await createGguf(path, layout, options);
  try {
    for (const [index, values] of entries.flatMap(({ sums, counts }) => [sums, counts]).entries()) {
      const { buffer, byteOffset, byteLength } = asFloats(values);
      await output.writeTensorRange(
        layout.tensors[index]!,
        0,
        new Uint8Array(buffer, byteOffset, byteLength),
      );
    }
    await output.commit();
  } catch (error) {
    await output.abort();
    throw error;
  }
  return layout.size;
}
