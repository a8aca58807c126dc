import type { TextMode } from "../../calibration/text/modes.js";
import { openGguf } from "../../formats/gguf/read.js";
import type { GgufMetadata, GgufModel } from "../../formats/gguf/types.js";
import type { Engine } from "../engines/types.js";
import { chatRenderer } from "../gemma4/chat-template.js";
import { isInstructionTuned, isInstructionTunedGguf } from "../gemma4/instruction-tuned.js";
import { checkGateOptions, checkGates, type GateFailure, type Gates } from "../verify/gates.js";
import { type TextOptions, textWindows, type VerifyResult, verifyModel } from "../verify/verify.js";
import type { Reporter } from "./progress.js";
import { withReference } from "./reference.js";
import { checkNoFolder, isOnnxPath } from "./onnx-package.js";
import { hashText } from "./text-identity.js";

/** How to measure: the same for every file of a run. */
export interface MeasureOptions {
  /** File or folder of text; the evaluation set of the package when left out. */
  readonly text?: string | undefined;
  readonly mode: TextMode;
  /** Tokens of a window. */
  readonly context: number;
  /** Windows at most; the whole text when left out. */
  readonly chunks?: number | undefined;
  readonly threads: number;
}

export interface VerifyRequest extends MeasureOptions {
  /** GGUF files, and packages for ONNX Runtime: their folders, or decoders in them. */
  readonly files: readonly string[];
  /** GGUF file, package, or folder of a checkpoint, to compare with; null for perplexity alone. */
  readonly reference: string | null;
  /** What activations of MatMulNBits are computed in, level by level; 0 and what the file has when left out. */
  readonly accuracyLevels?: readonly number[] | undefined;
  readonly gates: Gates;
  /** Ceiling for working memory when the reference has to be written first. */
  readonly memory: number;
}

/** What `verify --json` prints. */
export interface VerifyReport {
  readonly files: readonly {
    readonly file: string;
    /** Of the products in ONNX Runtime: 0 single precision, 4 activations of 8 bits; null where there is no choice. */
    readonly accuracyLevel: number | null;
    readonly result: VerifyResult;
    readonly missed: readonly GateFailure[];
  }[];
}

function integer(metadata: GgufMetadata, key: string): number | null {
  const value = metadata.get(key);
  return value?.type === "u32" || value?.type === "i32" ? value.value : null;
}

function text(metadata: GgufMetadata, key: string): string | null {
  const value = metadata.get(key);
  return value?.type === "string" ? value.value : null;
}

/** Text of the BOS token, which chat templates write in front of a conversation. */
function bosText(metadata: GgufMetadata): string {
  const id = integer(metadata, "tokenizer.ggml.bos_token_id");
  const tokens = metadata.get("tokenizer.ggml.tokens");
  return id !== null && tokens?.type === "array" && tokens.of === "string" && id < tokens.value.length
    ? tokens.value.at(id)
    : "<bos>";
}

/** What the measurement has to know of a file, from its own metadata. */
export async function traits({ metadata }: GgufModel, names: readonly string[]) {
  const template = text(metadata, "tokenizer.chat_template");
  const bos = bosText(metadata);
  return {
    instructionTuned: isInstructionTunedGguf(metadata) || isInstructionTuned(names),
    render: template === null ? null : await chatRenderer(template, { bosToken: bos }),
    bosText: bos,
    slidingWindow: integer(metadata, "gemma4.attention.sliding_window"),
  };
}

/** The text and how to cut it, for one model. */
function textOptions(
  engine: Engine,
  model: GgufModel,
  path: string,
  { text: source, mode, context, chunks, threads }: MeasureOptions,
): TextOptions {
  return {
    engine,
    candidate: model.paths[0] ?? path,
    ...(source === undefined ? {} : { text: source }),
    mode,
    context,
    ...(chunks === undefined ? {} : { chunks }),
    threads,
  };
}

/**
 * Windows of the text for a model, of which there may be nothing yet but the vocabulary.
 *
 * @param vocabulary file with the metadata of the model, with or without its tensors
 * @param names as for `measureFile`
 * @throws TextError when the text is not enough for one
 */
export async function measurableWindows(
  engine: Engine,
  vocabulary: string,
  options: MeasureOptions,
  names: readonly string[] = [],
) {
  const model = await openGguf(vocabulary);
  return textWindows({
    ...textOptions(engine, model, vocabulary, options),
    ...(await traits(model, names)),
  });
}

/** A model that can be measured, whatever runtime it is for. */
export interface Measurable {
  /** What the engine loads. */
  readonly path: string;
  /** File with its vocabulary and traits: itself, if it is a GGUF. */
  readonly vocabulary: string;
}

/**
 * Measures one model in a running engine.
 *
 * @param names further names of the model that may mark it as instruction tuned, such as its folder's
 */
export async function measureFile(
  engine: Engine,
  { path, vocabulary }: Measurable,
  reference: string | null,
  options: MeasureOptions,
  reporter: Reporter,
  signal: AbortSignal,
  names: readonly string[] = [],
): Promise<VerifyResult> {
  const model = await openGguf(vocabulary);
  return verifyModel({
    ...textOptions(engine, model, path, options),
    ...(path === vocabulary ? {} : { candidate: path }),
    reference,
    signal,
    onProgress: (done, total) => reporter.progress({ done, total, unit: "windows" }),
    ...(await traits(model, names)),
  });
}

/** One line on a measurement, for progress. */
export function outcomeOf(result: VerifyResult): string {
  const { perplexity, comparison } = result.windows;
  const parts = [`perplexity ${perplexity.value.toFixed(4)}`];
  if (comparison !== null) parts.push(`KL divergence ${comparison.divergence.value.toPrecision(3)}`);
  return parts.join(", ");
}

/** A model of a request, with what it is called there. */
export interface Candidate extends Measurable {
  readonly file: string;
  readonly accuracyLevel: number | null;
  readonly names: readonly string[];
}

export function ggufCandidate(file: string): Candidate {
  return { file, path: file, vocabulary: file, accuracyLevel: null, names: [] };
}

/**
 * Measures files in the runtimes that they are for, against a reference if there is one, and holds them against gates.
 *
 * @throws LapidaryError of any room; missed gates are in the report, not thrown
 */
export async function verify(
  request: VerifyRequest,
  reporter: Reporter,
  signal: AbortSignal,
): Promise<VerifyReport> {
  checkGateOptions(request.gates, request.reference !== null);
  // What can be wrong with text and files should come out before a reference is written.
  await hashText(request.text);
  const onnx = await Promise.all([...request.files, request.reference ?? ""].map((path) => isOnnxPath(path)));
  if (onnx.includes(true)) {
    const { verifyAcross } = await import("./verify-onnx.js");
    return verifyAcross(request, reporter, signal);
  }
  for (const file of request.files) {
    await checkNoFolder(file);
    await openGguf(file);
  }
  const candidates = request.files.map((file) => ggufCandidate(file));
  const { startLlamaEngine } = await import("../engines/llama/engine.js");
  const engine = await startLlamaEngine();
  try {
    return await verifyCandidates(engine, candidates, request, reporter, signal);
  } finally {
    await engine.close();
  }
}

/**
 * Measures candidates in an engine that knows all of them.
 *
 * @throws LapidaryError of any room
 */
export async function verifyCandidates(
  engine: Engine,
  candidates: readonly Candidate[],
  request: VerifyRequest,
  reporter: Reporter,
  signal: AbortSignal,
): Promise<VerifyReport> {
  const checkFiles = async (name: string): Promise<void> => {
    for (const { vocabulary, names } of candidates)
      await measurableWindows(engine, vocabulary, request, [name, ...names]);
  };
  return withReference(request.reference, request, reporter, signal, checkFiles, async (reference) => {
    const files: VerifyReport["files"][number][] = [];
    for (const candidate of candidates) {
      const { file, accuracyLevel } = candidate;
      const names = reference === null ? candidate.names : [reference.name, ...candidate.names];
      reporter.start(`verify ${file}${accuracyLevel === null ? "" : ` at accuracy level ${accuracyLevel}`}`);
      const result = await measureFile(
        engine,
        candidate,
        reference?.path ?? null,
        request,
        reporter,
        signal,
        names,
      );
      reporter.finish(outcomeOf(result));
      files.push({ file, accuracyLevel, result, missed: checkGates(result, request.gates) });
    }
    return { files };
  });
}
