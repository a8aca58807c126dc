import { z } from "zod";

const count = z.number().int().nonnegative();
const hashedFile = z.object({
  // A name from outside that becomes part of a path: a plain file name, nothing else.
  file: z
    .string()
    .regex(/^[^/\\\0]+$/)
    .refine((name) => name !== "." && name !== ".."),
  bytes: count,
  sha256: z.string().regex(/^[0-9a-f]{64}$/),
});
const source = z.object({
  kind: z.enum(["checkpoint", "gguf"]),
  name: z.string(),
  files: z.array(hashedFile),
});

/**
 * What of a manifest must hold before anything in it is believed. Measurements are not looked into: they
 * are carried along for people, and nothing is decided on them.
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
  reference: hashedFile.extend({ type: z.string(), source: z.string() }).nullable(),
  artifacts: z.array(
    z.object({
      files: z.array(hashedFile).min(1),
      bytes: count,
      type: z.string(),
      plan: z.string(),
      bitsPerWeight: z.number(),
      source,
      tensors: z.array(z.object({ name: z.string(), type: z.string(), ne: z.array(count), bytes: count })),
      settings: z.string().nullable(),
      verification: z.looseObject({}).nullable(),
      throughput: z.looseObject({}).nullable(),
    }),
  ),
});
