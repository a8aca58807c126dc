import { evaluationSet } from "../../calibration/text/evaluation.js";
import { loadDocuments } from "../../calibration/text/documents.js";
import { resolveMode, textPieces, type RenderChat, type TextMode } from "../../calibration/text/modes.js";
import { longWindows, packWindows, type PlacedWindow } from "../../calibration/text/windows.js";
import { builtUrl } from "../base/paths.js";
import type { Engine, EngineInfo, ModelInfo } from "../engines/types.js";
import { VerifyError } from "./errors.js";
import { measure, type Measurement, type PartMeasurement, partMeasurements } from "./measurement.js";
import { tokenizePieces, type TokenStream } from "./stream.js";

/** The text, and what has to be known of a model to read it. */
export interface TextOptions {
  readonly engine: Engine;
  /** Path of the model file to judge. */
  readonly candidate: string;
  /** File or folder that `loadDocuments` understands; the set that comes with lapidary when left out. */
  readonly text?: string;
  /** `auto` when left out. */
  readonly mode?: TextMode;
  /** What `auto` goes by. */
  readonly instructionTuned?: boolean;
  /** Renders a conversation with the model's chat template; null when it has none. */
  readonly render?: RenderChat | null;
  /** Text of the BOS token, which templates write in front; `<bos>` when left out. */
  readonly bosText?: string;
  /** Tokens of a window; 512 when left out. */
  readonly context?: number;
  /** Windows to run at most; all of the text when left out. */
  readonly chunks?: number;
  readonly threads: number;
}

export interface VerifyOptions extends TextOptions {
  /** Path of the file the candidate is held against, usually the BF16 one; null for perplexity alone. */
  readonly reference: string | null;
  /** Tokens that a sliding layer of the model sees; long windows are left out when it is not given. */
  readonly slidingWindow?: number | null;
  readonly signal?: AbortSignal;
  /** Windows done, of all that will be run. */
  readonly onProgress?: (done: number, total: number) => void;
}

/** What was found; plain data, the `--json` of the command. */
export interface VerifyResult {
  readonly engine: EngineInfo;
  readonly candidate: ModelInfo;
  readonly reference: ModelInfo | null;
  readonly text: {
    readonly source: string;
    readonly mode: "raw" | "chat";
    /** Tokens of the whole text, BOS counted. */
    readonly tokens: number;
  };
  /** The windows of llama-perplexity's protocol. */
  readonly windows: Measurement;
  /** The same over windows longer than the sliding window; null when there are none. */
  readonly longWindows: Measurement | null;
  /** `windows` taken apart by the file the tokens come from, in the order of the text; one entry a file. */
  readonly parts: readonly PartMeasurement[];
}

interface LoadedModel {
  readonly handle: number;
  readonly model: ModelInfo;
}

const defaultContext = 512;

/** Tokenizes with the candidate, and sees to it that the reference's tokens are the same. */
async function commonStream(
  engine: Engine,
  models: readonly LoadedModel[],
  pieces: Parameters<typeof tokenizePieces>[2],
): Promise<TokenStream> {
  const candidate = models.at(-1) as LoadedModel;
  const stream = await tokenizePieces(engine, candidate, pieces);
  for (const other of models.slice(0, -1)) {
    const { path, vocabulary } = other.model;
    if (vocabulary !== candidate.model.vocabulary) {
      throw new VerifyError(
        "vocabulary-mismatch",
        `${candidate.model.path} has ${candidate.model.vocabulary} tokens, the reference ${path} has ${vocabulary}.`,
        { advice: "Compare two files that were made from the same checkpoint.", exitCode: 2 },
      );
    }
    const theirs = await tokenizePieces(engine, other, pieces);
    const at = theirs.tokens.findIndex((token, index) => token !== stream.tokens[index]);
    if (at !== -1 || theirs.tokens.length !== stream.tokens.length) {
      const place = at === -1 ? Math.min(theirs.tokens.length, stream.tokens.length) : at;
      throw new VerifyError(
        "tokenizer-mismatch",
        `${candidate.model.path} and the reference ${path} cut the text into different tokens, first at token ${place}.`,
        { advice: "Compare two files that were made from the same checkpoint.", exitCode: 2 },
      );
    }
  }
  return stream;
}

/** The text in pieces, before any model sees it. */
async function readText(options: TextOptions) {
  const source = options.text ?? evaluationSet();
  const mode = resolveMode(options.mode ?? "auto", options.instructionTuned ?? false);
  const pieces = textPieces(await loadDocuments(source), mode, {
    render: options.render ?? null,
    ...(options.bosText === undefined ? {} : { bos: options.bosText }),
  });
  return { source, mode, pieces };
}

function cutWindows(
  { tokens }: TokenStream,
  pieces: readonly { readonly file: string }[],
  bos: number | null,
  { context = defaultContext, chunks }: TextOptions,
): PlacedWindow[] {
  return packWindows(tokens, {
    context,
    bos,
    spread: new Set(pieces.map((piece) => piece.file)).size > 1,
    ...(chunks === undefined ? {} : { chunks }),
  });
}

function bosOf({ model }: LoadedModel): number | null {
  return model.addsBos ? model.bos : null;
}

/**
 * Cuts a text into windows with a model's vocabulary alone: the candidate's file needs no tensors.
 *
 * @throws TextError when the text cannot be read, or is shorter than one window
 */
export async function textWindows(options: TextOptions): Promise<PlacedWindow[]> {
  const { engine, candidate, threads, context = defaultContext } = options;
  const { pieces } = await readText(options);
  const loaded = await engine.load(candidate, { threads, context, vocabularyOnly: true });
  try {
    return cutWindows(await tokenizePieces(engine, loaded, pieces), pieces, bosOf(loaded), options);
  } finally {
    await engine.unload(loaded.handle).catch(() => undefined);
  }
}

/**
 * Measures a model file in the runtime its users run: perplexity of the text, and, against a reference,
 * KL divergence, agreement of the first choice and the change of the true token's probability. Both files
 * see the same windows at the same time; no logits are stored. Windows and formulas are llama-perplexity's.
 *
 * Of a folder of files only spread windows are taken when `chunks` limits them; of a single file the first.
 *
 * @throws TextError when the text cannot be read, or is shorter than one window
 * @throws VerifyError `vocabulary-mismatch`, `tokenizer-mismatch`, `score-not-finite`
 */
export async function verifyModel(options: VerifyOptions): Promise<VerifyResult> {
  const { engine, threads, signal, slidingWindow = null, context = defaultContext } = options;
  const { source, mode, pieces } = await readText(options);
  const longLength = slidingWindow === null ? 0 : 4 * slidingWindow;

  const loaded: LoadedModel[] = [];
  try {
    const paths = options.reference === null ? [options.candidate] : [options.reference, options.candidate];
    for (const path of paths) {
      signal?.throwIfAborted();
      loaded.push(await engine.load(path, { threads, context: Math.max(context, longLength) }));
    }
    const candidate = loaded.at(-1) as LoadedModel;
    const stream = await commonStream(engine, loaded, pieces);
    const bos = bosOf(candidate);
    const windows = cutWindows(stream, pieces, bos, options);
    const long = slidingWindow === null ? null : longWindows(stream.tokens, { slidingWindow, bos });

    const total = windows.length + (long?.length ?? 0);
    const score = (some: readonly PlacedWindow[], before: number) =>
      engine.score(
        loaded.map((model) => model.handle),
        some,
        {
          visitor: builtUrl(import.meta.url, "./visitor.js"),
          onWindow: (done) => options.onProgress?.(before + done, total),
          ...(signal === undefined ? {} : { signal }),
        },
      );
    const scores = await score(windows, 0);
    const longScores = long === null ? null : await score(long, windows.length);

    return {
      engine: await engine.info(),
      candidate: candidate.model,
      reference: options.reference === null ? null : (loaded[0] as LoadedModel).model,
      text: { source, mode, tokens: stream.tokens.length },
      windows: measure(windows, scores),
      longWindows: long === null || longScores === null ? null : measure(long, longScores),
      parts: partMeasurements(windows, scores, stream.spans),
    };
  } finally {
    for (const { handle } of loaded) await engine.unload(handle).catch(() => undefined);
  }
}
