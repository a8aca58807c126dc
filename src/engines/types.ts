/** One reading of how fast a model runs, over several repetitions. */
export interface Speed {
  /** `prompt`: one pass over n tokens; `generation`: n passes over one token. */
  readonly kind: "prompt" | "generation";
  readonly tokens: number;
  /** Tokens a second of every repetition. */
  readonly samples: readonly number[];
  readonly mean: number;
  /** Sample standard deviation of `samples`; 0 for one repetition. */
  readonly deviation: number;
}

export interface BenchOptions {
  readonly promptTokens: number;
  readonly generationTokens: number;
  readonly repetitions: number;
  /** Ends the engine, as for `ScoreOptions`. */
  readonly signal?: AbortSignal;
}

export interface BenchResult {
  readonly speeds: readonly Speed[];
  readonly threads: number;
  /** One-minute load average of the machine before and after. */
  readonly load: readonly [number, number];
  /** Largest resident memory of the engine's process, in bytes. */
  readonly peakMemory: number;
}

export interface ModelInfo {
  readonly path: string;
  readonly vocabulary: number;
  readonly parameters: number;
  readonly bytes: number;
  readonly description: string;
  /** The token that the metadata puts first in a text, and whether it is added. */
  readonly bos: number;
  readonly addsBos: boolean;
}

export interface EngineInfo {
  /** Such as `llama.cpp v0.5.0 (@node-llama-cpp/linux-x64 3.22.1)`. */
  readonly name: string;
  /** As the library itself has it, such as `0.5.0-dev`. */
  readonly version: string;
  /** What the engine itself says of the machine (instruction sets in use). */
  readonly system: string;
}

/** Numbers a visitor makes of one scored position; kept flat, `columns` a row. */
export interface WindowScores {
  readonly columns: number;
  /** Row-major, one row a scored position. */
  readonly values: Float64Array;
}

/**
 * A window of tokens to run: every model in turn sees exactly these tokens on an empty cache; logits of
 * the positions from `first` to the last but one are visited, each with the token that really follows.
 */
export interface Window {
  readonly tokens: Int32Array;
  /** First position whose prediction is scored. */
  readonly first: number;
}

/**
 * The module named in `ScoreOptions.visitor` exports this as `createVisitor`. It runs inside the engine's
 * process, so logits (1 MiB a row at 262,144 tokens) never cross a process border; the engine knows
 * nothing of what is computed.
 *
 * @param vocabulary number of logits in a row
 * @param models number of models that are run side by side
 */
export type CreateVisitor = (
  vocabulary: number,
  models: number,
) => {
  readonly columns: number;
  /**
   * @param rows one row of logits a model, valid during the call only
   * @param target the token that follows in the text
   * @param out `columns` numbers to fill
   */
  visit(rows: readonly Float32Array[], target: number, out: Float64Array): void;
};

export interface ScoreOptions {
  /** URL of a built JavaScript module that exports `createVisitor`; runs once a call. */
  readonly visitor: URL;
  /** Called after each window, with the number of windows done. */
  readonly onWindow?: (done: number) => void;
  /** Aborting rejects with the signal's reason and ends the engine: no runtime stops cleanly at any point. */
  readonly signal?: AbortSignal;
}

export interface LoadOptions {
  readonly threads: number;
  /** Tokens that the largest window needs. */
  readonly context: number;
  /** Load no weights: such a model tokenizes and does nothing else, and its file needs none. */
  readonly vocabularyOnly?: boolean;
}

/** Something that runs model files. One engine is one process; several models may be loaded in it. */
export interface Engine {
  info(): Promise<EngineInfo>;
  /** @returns a handle for the other calls */
  load(path: string, options: LoadOptions): Promise<{ handle: number; model: ModelInfo }>;
  /**
   * @param special whether the texts of control tokens become those tokens
   * @param bos whether a BOS token is put in front where the model wants one
   */
  tokenize(handle: number, text: string, options: { special: boolean; bos: boolean }): Promise<Int32Array>;
  /** Runs all `handles` over the same windows and returns the visitor's numbers, a window each. */
  score(
    handles: readonly number[],
    windows: readonly Window[],
    options: ScoreOptions,
  ): Promise<WindowScores[]>;
  bench(handle: number, options: BenchOptions): Promise<BenchResult>;
  /** Largest resident memory of the engine's process so far, in bytes. */
  peakMemory(): Promise<number>;
  unload(handle: number): Promise<void>;
  close(): Promise<void>;
}
