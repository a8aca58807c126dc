import { Flags } from "@oclif/core";
import { LapidaryError } from "../base/errors.js";
import type { ExportRequest } from "../pipeline/export.js";

/** Flags of the commands that write ONNX. */
export const onnxFlags = {
  dtype: Flags.custom<string[]>({
    description:
      "ONNX: dtypes to write, by transformers.js's names: fp32, fp16, q8, q4, q4f16, q2, q2f16; GRAPH=DTYPE for a single graph (embed_tokens, decoder_model_merged)",
    helpValue: "DTYPE[,…]",
    parse: async (text) => text.split(",").map((name) => name.trim()),
  })(),
  "block-size": Flags.integer({
    description: "ONNX: values that share a scale: 16, 32, 64, 128 or 256",
    // No default: only ONNX has one.
    defaultHelp: async () => "32",
  }),
  "zero-points": Flags.boolean({
    description: "ONNX: a zero point for every block, or for none; where it pays when left out",
    allowNo: true,
  }),
  "accuracy-level": Flags.integer({
    description:
      "ONNX: what products with codes are computed in: 0 single precision, 4 activations of 8 bits (many times as fast)",
    min: 0,
    max: 4,
    defaultHelp: async () => "4",
  }),
  "range-text": Flags.string({
    description: "ONNX: text for the range check; the evaluation set when left out",
    helpValue: "FILE",
  }),
  "range-check": Flags.boolean({
    description:
      "ONNX: whether text is run through the model to see that its values fit halves, before a dtype that computes in them is written; done when left out",
    allowNo: true,
  }),
  layout: Flags.option({
    description: "ONNX: whose folder layout is written",
    options: ["transformers.js", "genai"] as const,
    defaultHelp: async () => "transformers.js",
  })(),
};

interface OnnxValues {
  /** Not given to commands that take no plan. */
  readonly plan?: string | undefined;
  readonly dtype: readonly string[] | undefined;
  readonly "block-size": number | undefined;
  /** Undefined where the flag was not given, whatever oclif's type says. */
  readonly "zero-points": boolean | undefined;
  readonly "accuracy-level": number | undefined;
  readonly "range-text": string | undefined;
  readonly "range-check": boolean | undefined;
  readonly layout: "transformers.js" | "genai" | undefined;
}

type OnnxOptions = Pick<
  ExportRequest,
  "dtypes" | "plan" | "block" | "zeroPoints" | "accuracyLevel" | "layout" | "rangeText" | "checkRange"
>;

/**
 * Values of the flags that only ONNX has, and of the plan.
 *
 * @throws PipelineError when the plan is none
 */
export async function onnxOptions(flags: OnnxValues): Promise<OnnxOptions> {
  const { plan, dtype } = flags;
  if (plan === undefined) return ownOptions(flags, dtype ?? []);
  // The parser and the schema take 0.2 s to load.
  const { noColumn, readPlan } = await import("../pipeline/plan-file.js");
  const open = await readPlan(plan);
  if (open.plan.onnx === undefined) throw noColumn(plan, "onnx");
  return { ...ownOptions(flags, [open.plan.onnx.dtype]), plan: open };
}

function ownOptions(flags: OnnxValues, dtypes: readonly string[]): Omit<OnnxOptions, "plan"> {
  return {
    dtypes,
    block: flags["block-size"],
    zeroPoints: flags["zero-points"],
    accuracyLevel: flags["accuracy-level"],
    rangeText: flags["range-text"],
    checkRange: flags["range-check"],
    layout: flags.layout ?? "transformers.js",
  };
}

/** Refuses flags that the format knows nothing of. */
export function checkFormat(
  format: "gguf" | "onnx",
  flags: Readonly<Record<string, unknown>>,
  own: readonly string[],
): void {
  const stray = Object.keys(flags).find(
    (name) => own.includes(name) && flags[name] !== undefined && flags[name] !== false,
  );
  if (stray === undefined) return;
  throw new LapidaryError("bad-flag", `--${stray} says nothing about ${format}.`, {
    exitCode: 2,
    advice: `Leave it out, or write ${format === "gguf" ? "--to onnx" : "--to gguf"}.`,
  });
}

/**
 * The method of a flag that other formats share.
 *
 * @throws LapidaryError for a method that is not for ONNX
 */
export function onnxMethod(method: string | undefined): "search" | "nearest" | undefined {
  if (method === undefined || method === "search" || method === "nearest") return method;
  throw new LapidaryError(
    "bad-flag",
    `--method ${method}: ONNX has no such method; expected search or nearest.`,
    { exitCode: 2 },
  );
}
