import { z } from "zod";

/** Version of the folder's form. */
export const FORMAT_VERSION = 1;

const count = z.int().nonnegative();
const name = z.string().min(1).max(512);
const hash = z.string().regex(/^[0-9a-f]{64}$/);
/** Real: 262,144 (vocabulary), 21,504 columns (31B). */
const size = z
  .int()
  .min(1)
  .max(2 ** 24);
/** Real: 700 (31B). */
const MAX_TENSORS = 2 ** 16;

const targetSchema = z.union([
  z.string().min(1).max(16),
  z.strictObject({
    bits: z.union([z.literal(2), z.literal(4), z.literal(8)]),
    block: z.union([z.literal(16), z.literal(32), z.literal(64), z.literal(128), z.literal(256)]),
    zeroPoints: z.boolean(),
  }),
]);

const tensorSchema = z.strictObject({
  /** Name in the checkpoint without the prefix. */
  tensor: name,
  target: targetSchema,
  method: z.literal("gptq"),
  effort: z.union([z.literal(0), z.literal(1), z.literal(2)]),
  /** Of all matrices of a stack. */
  rows: size,
  columns: size,
  /** Part of the mean that was added to the diagonals, at most. */
  damping: z.strictObject({ columns: z.number().positive(), rows: z.number().positive().nullable() }),
  /** Rows that fed back on each other. */
  groupRows: size,
  /** tr(E·H·Eᵀ) on the mean over the tokens, under the forms that were rounded by: the squared error of the outputs. */
  loss: z.number().nonnegative(),
  /** ½ tr(G·E·H·Eᵀ), nats per token, under the same forms; null where G is not known. */
  divergence: z.number().nonnegative().nullable(),
  file: z.string().regex(/^[0-9a-f]{16}\.bin$/),
  byteLength: z.int().min(1),
  sha256: hash,
});

const headerSchema = z.strictObject({
  /** Files of the checkpoint. */
  checkpoint: z.array(z.strictObject({ file: name, bytes: count, sha256: hash })).min(1),
  /** SHA-256 over what the statistics are of. */
  statistics: hash,
  /** Whatever else the bytes depend on, such as the order. */
  method: z.record(name, z.union([z.string(), z.number(), z.boolean(), z.null()])),
});

export const roundingSchema = z.strictObject({
  formatVersion: z.literal(FORMAT_VERSION),
  ...headerSchema.shape,
  tensors: z.array(tensorSchema).max(MAX_TENSORS),
});

/** What rounded tensors are of. */
export type RoundingHeader = z.infer<typeof headerSchema>;

/** What stands in the list for a rounded tensor. */
export type RoundedTensor = z.infer<typeof tensorSchema>;

export type RoundingList = z.infer<typeof roundingSchema>;
