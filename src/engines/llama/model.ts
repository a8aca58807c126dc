import { EngineError } from "../errors.js";
import type { LoadOptions, ModelInfo } from "../types.js";
import type { Llama, Params, Pointer } from "./library.js";

/** An `EngineError` whose reason llama.cpp wrote to its log just before. */
export class LoggedError extends EngineError {}

/**
 * Tokens that go through the model at once, llama.cpp's own default for its physical batch. More would
 * not be faster, and memory for intermediate results grows with it.
 */
export const BATCH_TOKENS = 512;

/** Most bytes of logits that one batch may produce: 128 rows of Gemma 4's 262,144 tokens. */
const MAX_LOGITS_BYTES = 128 * 1024 * 1024;

/** `GGML_MAX_N_THREADS`: more is an assertion that fails. */
const MAX_THREADS = 512;

function checkOptions({ threads, context }: LoadOptions): void {
  if (!Number.isSafeInteger(threads) || threads < 1 || threads > MAX_THREADS) {
    throw new EngineError(
      "engine-threads",
      `${threads} threads are asked for, expected 1 to ${MAX_THREADS}.`,
      {
        exitCode: 2,
      },
    );
  }
  if (!Number.isSafeInteger(context) || context < 1 || context >= 2 ** 31) {
    throw new EngineError(
      "engine-context",
      `A context of ${context} tokens is asked for, expected at least 1.`,
      {
        exitCode: 2,
      },
    );
  }
}

/** One loaded file with what is needed to run it. */
export class Model {
  readonly info: ModelInfo;
  readonly threads: number;
  /** Tokens that the longest window may have. */
  readonly context: number;
  readonly #llama: Llama;
  readonly #vocabularyOnly: boolean;
  readonly #model: Pointer;
  readonly #vocabulary: Pointer;
  #scoring: Pointer | null = null;

  private constructor(llama: Llama, model: Pointer, path: string, options: LoadOptions) {
    this.#llama = llama;
    this.#vocabularyOnly = options.vocabularyOnly ?? false;
    this.#model = model;
    this.#vocabulary = llama.vocabulary(model);
    this.threads = options.threads;
    this.context = options.context;
    this.info = {
      path,
      vocabulary: llama.vocabularySize(this.#vocabulary),
      parameters: llama.parameterCount(model),
      bytes: llama.modelBytes(model),
      description: llama.describe(model),
      bos: llama.bos(this.#vocabulary),
      addsBos: llama.addsBos(this.#vocabulary),
    };
  }

  /**
   * @throws LoggedError when llama.cpp refuses the file
   * @throws EngineError for counts of threads or tokens that cannot be
   */
  static async load(llama: Llama, path: string, options: LoadOptions): Promise<Model> {
    checkOptions(options);
    const params = { ...llama.modelParams(), vocab_only: options.vocabularyOnly ?? false };
    const model = await llama.loadModel(path, params);
    if (model === null) {
      throw new LoggedError("engine-load", `llama.cpp could not load ${path}.`, {
        advice: "Check that the file is complete and of an architecture that this llama.cpp knows.",
      });
    }
    return new Model(llama, model, path, options);
  }

  /** Rows of logits that one batch may ask for. */
  get rows(): number {
    const fitting = Math.floor(MAX_LOGITS_BYTES / (this.info.vocabulary * Float32Array.BYTES_PER_ELEMENT));
    return Math.max(1, Math.min(this.batchTokens, fitting));
  }

  get batchTokens(): number {
    return Math.min(BATCH_TOKENS, this.context);
  }

  /**
   * A context of its own with this model's threads; the caller frees it.
   *
   * Keys and values in half precision, flash attention where llama.cpp thinks it right, and a cache of the
   * sliding layers no longer than their window: as llama-perplexity and llama-bench have it.
   *
   * @throws LoggedError when there is not enough memory
   * @throws EngineError when the model was loaded without its weights
   */
  async newContext(params: Params): Promise<Pointer> {
    if (this.#vocabularyOnly) {
      throw new EngineError("engine-handle", `${this.info.path} is loaded without its weights.`);
    }
    const context = await this.#llama.newContext(this.#model, {
      ...this.#llama.contextParams(),
      swa_full: false,
      n_threads: this.threads,
      n_threads_batch: this.threads,
      ...params,
    });
    if (context === null) {
      throw new LoggedError(
        "engine-context",
        `llama.cpp could not make room for ${String(params["n_ctx"])} tokens of ${this.info.path}.`,
        { advice: "Use a shorter context or free memory." },
      );
    }
    this.#llama.attachThreads(context, this.threads);
    return context;
  }

  /** The context for `score`, made on first use so that a benchmark alone does not pay for it. */
  async scoringContext(): Promise<Pointer> {
    this.#scoring ??= await this.newContext({
      n_ctx: this.context,
      n_batch: this.batchTokens,
      n_ubatch: this.batchTokens,
      n_outputs_max: this.rows,
    });
    return this.#scoring;
  }

  /** @throws EngineError when the text is too long for one call */
  async tokenize(text: string, options: { special: boolean; bos: boolean }): Promise<Int32Array> {
    const bytes = Buffer.from(text, "utf8");
    // Enough for nearly all text; never so small that V8 would keep it where it may be moved.
    let tokens = new Int32Array(Math.ceil(bytes.length / 2) + 32);
    let count = await this.#llama.tokenize(this.#vocabulary, bytes, tokens, options);
    if (count < 0 && count > -(2 ** 31)) {
      tokens = new Int32Array(-count);
      count = await this.#llama.tokenize(this.#vocabulary, bytes, tokens, options);
    }
    if (count < 0) {
      throw new EngineError("engine-tokenize", `A text of ${bytes.length} bytes is too long for llama.cpp.`);
    }
    return tokens.slice(0, count);
  }

  free(): void {
    if (this.#scoring !== null) this.#llama.freeContext(this.#scoring);
    this.#llama.freeModel(this.#model);
  }
}

/** @throws LoggedError unless a decode's return value is 0 */
export function checkDecoded(status: number, model: Model): void {
  if (status === 0) return;
  throw new LoggedError(
    "engine-decode",
    `llama.cpp could not run ${model.info.path} (llama_decode returned ${status}).`,
  );
}
