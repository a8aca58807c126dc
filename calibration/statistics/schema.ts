import { z } from "zod";

/** Version of the folder's form. */
export const FORMAT_VERSION = 1;

const count = z.int().nonnegative();
/** Keeps products of two sizes inside a safe integer. Real: 262,144 (vocabulary), 21,504 columns (31B). */
const size = z
  .int()
  .min(1)
  .max(2 ** 24);
/** Real: 8 (all experts of a layer count as one input). */
const MAX_INPUTS = 64;
/** Real: 62 (31B). */
const MAX_STEPS = 1024;
/** Real: 128 (26B-A4B). */
const MAX_EXPERTS = 4096;
const name = z.string().min(1).max(512);
const hash = z.string().regex(/^[0-9a-f]{64}$/);

const momentsSchema = z.strictObject({ blockWidth: size, tokens: count });

const inputSchema = z
  .strictObject({
    input: name,
    weights: z.array(name).min(1).max(MAX_INPUTS),
    columns: size,
    tokens: count,
    moments: momentsSchema.nullable(),
    cross: momentsSchema.nullable(),
    experts: z
      .strictObject({
        count: z.int().min(1).max(MAX_EXPERTS),
        moments: z.strictObject({ blockWidth: size, tokens: z.array(count).max(MAX_EXPERTS) }).nullable(),
      })
      .nullable(),
  })
  .refine(({ columns, moments, cross, experts }) =>
    [moments, cross, experts?.moments].every((each) => each == null || each.blockWidth <= columns),
  )
  .refine(({ experts }) => experts?.moments == null || experts.moments.tokens.length === experts.count);

const stepSchema = z.strictObject({
  index: count.max(MAX_STEPS),
  kind: z.enum(["embedding", "layer", "head"]),
  layer: count.max(MAX_STEPS).nullable(),
  inputs: z.array(inputSchema).max(MAX_INPUTS),
  frequencies: z.array(z.strictObject({ weight: name, rows: size })).max(2),
});

const headerSchema = z.strictObject({
  /** Files of the checkpoint. */
  checkpoint: z.array(z.strictObject({ file: name, bytes: count, sha256: hash })).min(1),
  /** The text as token windows were cut from it. */
  text: z.strictObject({ sha256: hash, windows: count, tokens: count }),
  /** Whatever else the sums depend on, such as the order of the walk. */
  method: z.record(name, z.union([z.string(), z.number(), z.boolean(), z.null()])),
  /** Steps of the whole walk. */
  steps: z.int().min(1).max(MAX_STEPS),
});

export const statisticsSchema = z
  .strictObject({
    formatVersion: z.literal(FORMAT_VERSION),
    ...headerSchema.shape,
    /** Those that are done, in their order. */
    done: z.array(stepSchema).max(MAX_STEPS),
  })
  .refine(({ done, steps }) => done.length <= steps && done.every(({ index }, place) => index === place));

/** What statistics are of. */
export type StatisticsHeader = z.infer<typeof headerSchema>;

/** What of a step's statistics stands in the list; the numbers are in a file of their own. */
export type StepRecord = z.infer<typeof stepSchema>;

export type InputRecord = z.infer<typeof inputSchema>;

export type StatisticsList = z.infer<typeof statisticsSchema>;
