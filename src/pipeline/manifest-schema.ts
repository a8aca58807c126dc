import { z } from "zod";

const count = z.number().int().nonnegative();
const hashedFile = z.object({
  // From outside, and becomes part of a path: plain names, one inside the other.
  file: z
    .string()
    .regex(/^[^\\\0]+$/)
    .refine((path) => path.split("/").every((name) => name !== "" && name !== "." && name !== "..")),
  bytes: count,
  sha256: z.string().regex(/^[0-9a-f]{64}$/),
});
const source = z.object({
  kind: z.enum(["checkpoint", "gguf"]),
  name: z.string(),
  files: z.array(hashedFile),
});

const estimate = z.looseObject({ value: z.number(), error: z.number() });
const measurement = z.looseObject({
  windows: z.number(),
  context: z.number(),
  perplexity: estimate,
  comparison: z.looseObject({ ratio: estimate, divergence: estimate, topAgreement: estimate }).nullable(),
});
const verification = z.looseObject({ windows: measurement, longWindows: measurement.nullable() });
const throughput = z.looseObject({
  peakMemory: z.number(),
  speeds: z.array(
    z.looseObject({ kind: z.enum(["prompt", "generation"]), tokens: z.number(), mean: z.number() }),
  ),
});

const balancedFold = z.object({
  name: z.string(),
  rule: z.enum(["beta-0.25", "beta-0.5", "inverse"]),
  exponents: z.array(z.object({ exponent: z.number().int(), channels: count })),
  before: z.number(),
  after: z.number(),
});

/**
 * What of a manifest must hold before anything in it is believed. A measurement of another shape counts as
 * none: it is made again.
 */
export const manifestSchema = z.object({
  manifestVersion: z.literal(1),
  complete: z.boolean(),
  versions: z.object({
    lapidary: z.string(),
    node: z.string(),
    platform: z.string(),
    engine: z.string().nullable(),
    system: z.string().nullable(),
  }),
  artifacts: z.array(
    z.object({
      format: z.enum(["gguf", "onnx"]).default("gguf"),
      files: z.array(hashedFile).min(1),
      bytes: count,
      type: z.string(),
      plan: z.string(),
      bitsPerWeight: z.number(),
      method: z.enum(["gptq", "search", "ggml", "nearest"]).nullable().default(null),
      importance: hashedFile.nullable().default(null),
      lattices: z.array(z.string()).nullable().default(null),
      balance: z.array(balancedFold).nullable().catch(null).default(null),
      source,
      tensors: z.array(z.object({ name: z.string(), type: z.string(), ne: z.array(count), bytes: count })),
      settings: z.string().nullable(),
      reference: hashedFile.extend({ type: z.string(), source: z.string() }).nullable().catch(null),
      verification: verification.nullable().catch(null),
      throughput: throughput.nullable().catch(null),
      accuracyLevel: count.nullable().default(null),
      exact: z.object({ verification, throughput }).nullable().catch(null).default(null),
      range: z
        .object({ tokens: count, residual: z.number(), product: z.number(), largest: z.string() })
        .nullable()
        .catch(null)
        .default(null),
    }),
  ),
});
