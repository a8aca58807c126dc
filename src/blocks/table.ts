import { BlockError } from "./errors.js";
import type { BlockType, BlockTypeName } from "./types.js";

/**
 * ggml's types: name, id in GGUF files, values and bytes of a block. Ids that are missing here are retired
 * (4, 5, 31–33, 36–38) or hold activations only and are never stored (Q8_1 = 9, Q8_K = 15).
 *
 * The last column marks the types that llama-quantize refuses for a matrix without an importance row. (It
 * never asks for one for the embedding and output tables, and asks for one for Q2_K in the mix Q2_K_S.)
 */
const rows: readonly (readonly [BlockTypeName, number, number, number, boolean?])[] = [
  ["F32", 0, 1, 4],
  ["F16", 1, 1, 2],
  ["Q4_0", 2, 32, 18],
  ["Q4_1", 3, 32, 20],
  ["Q5_0", 6, 32, 22],
  ["Q5_1", 7, 32, 24],
  ["Q8_0", 8, 32, 34],
  ["Q2_K", 10, 256, 84],
  ["Q3_K", 11, 256, 110],
  ["Q4_K", 12, 256, 144],
  ["Q5_K", 13, 256, 176],
  ["Q6_K", 14, 256, 210],
  ["IQ2_XXS", 16, 256, 66, true],
  ["IQ2_XS", 17, 256, 74, true],
  ["IQ3_XXS", 18, 256, 98, true],
  ["IQ1_S", 19, 256, 50, true],
  ["IQ4_NL", 20, 32, 18],
  ["IQ3_S", 21, 256, 110],
  ["IQ2_S", 22, 256, 82, true],
  ["IQ4_XS", 23, 256, 136],
  ["I8", 24, 1, 1],
  ["I16", 25, 1, 2],
  ["I32", 26, 1, 4],
  ["I64", 27, 1, 8],
  ["F64", 28, 1, 8],
  ["IQ1_M", 29, 256, 56, true],
  ["BF16", 30, 1, 2],
  ["TQ1_0", 34, 256, 54],
  ["TQ2_0", 35, 256, 66],
  ["MXFP4", 39, 32, 17],
  ["NVFP4", 40, 64, 36],
  ["Q1_0", 41, 128, 18],
  ["Q2_0", 42, 64, 18],
];

/** All types that a GGUF tensor may have, in the order of their ids. */
export const blockTypes: readonly BlockType[] = rows.map(
  ([name, id, values, bytes, needsImportance = false]) =>
    Object.freeze({ name, id, values, bytes, needsImportance }),
);

const byName: ReadonlyMap<string, BlockType> = new Map(blockTypes.map((type) => [type.name, type]));
const byId: ReadonlyMap<number, BlockType> = new Map(blockTypes.map((type) => [type.id, type]));

/** Layout of a type. */
export function blockType(name: BlockTypeName): BlockType {
  const type = byName.get(name);
  if (type === undefined) throw new BlockError("unknown-block-type", `block type ${name} has no layout`);
  return type;
}

/** Type with an id of a GGUF file, or undefined for ids that ggml never stores or that are newer than this table. */
export function blockTypeById(id: number): BlockType | undefined {
  return byId.get(id);
}

/** Type with a name in any case (`q4_k`, `BF16`), or undefined. */
export function findBlockType(text: string): BlockType | undefined {
  return byName.get(text.toUpperCase());
}

/**
 * Type with a name that a user wrote, in any case.
 *
 * @throws BlockError `unknown-block-type` (misuse) when no type has that name
 */
export function parseBlockType(text: string): BlockType {
  const type = findBlockType(text);
  if (type !== undefined) return type;
  throw new BlockError("unknown-block-type", `block type ${JSON.stringify(text)} is not known`, {
    exitCode: 2,
    advice: `Use one of ${blockTypes.map((known) => known.name).join(", ")}.`,
  });
}

/**
 * Bytes of `values` values in a type.
 *
 * @throws BlockError `uneven-row` when the values are not whole blocks, `row-too-long` when the bytes pass 2^53
 */
export function rowBytes(name: BlockTypeName, values: number): number {
  const type = blockType(name);
  if (!Number.isSafeInteger(values) || values < 0 || values % type.values !== 0) {
    throw new BlockError(
      "uneven-row",
      `a row of ${values} values cannot be stored as ${name}, which packs ${type.values} values a block`,
    );
  }
  const bytes = (values / type.values) * type.bytes;
  if (!Number.isSafeInteger(bytes)) {
    throw new BlockError("row-too-long", `${values} values of ${name} take more than 2^53 bytes`);
  }
  return bytes;
}
