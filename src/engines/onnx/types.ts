import type { EngineInfo } from "../types.js";

/** Element types that go in and out, and the arrays that hold their values. */
export interface TensorArrays {
  readonly float32: Float32Array;
  /** Bit patterns, as Node 20 has no array of halves. */
  readonly float16: Uint16Array;
  readonly int64: BigInt64Array;
  readonly int32: Int32Array;
  /** 0 or 1, a byte each. */
  readonly bool: Uint8Array;
  readonly uint8: Uint8Array;
}

export type TensorType = keyof TensorArrays;

/** Values in row-major order; as many as the product of `dims`, which is 1 for a scalar's empty list. */
export type TensorValue = {
  readonly [T in TensorType]: {
    readonly type: T;
    readonly dims: readonly number[];
    readonly data: TensorArrays[T];
  };
}[TensorType];

/** A value for an input: given along, or left inside the engine by an earlier run. */
export type Feed = TensorValue | { readonly kept: string };

/** An input or an output of a graph. */
export interface ValueDescription {
  readonly name: string;
  /** As ONNX Runtime names it: one of `TensorType`, or another such as `int8`. */
  readonly type: string;
  /**
   * Numbers, or names of sizes that differ from run to run (empty where the graph gives none). A value of
   * unknown rank looks like a scalar: the binding has an empty list for both.
   */
  readonly shape: readonly (number | string)[];
}

/** A graph file, whose data files lie beside it, or the bytes of one. */
export type OnnxModelSource =
  | { readonly model: string }
  | {
      readonly model: Uint8Array;
      /** Where its data files lie; the working directory when left out. */
      readonly folder?: string;
      /** For messages. */
      readonly name?: string;
    };

export type OpenOptions = OnnxModelSource & {
  readonly threads: number;
  /** Whether the runtime rewrites the graph; `all` when left out. */
  readonly optimization?: "all" | "none";
  /**
   * Whether weights are copied into the order that the kernels like: faster from the third or fourth run on,
   * at the cost of the weights' size in memory. True when left out.
   */
  readonly prepack?: boolean;
  /** Writes the optimized graph there, which shows what was fused. */
  readonly optimizedModelPath?: string;
  /** Settings of the runtime's C interface, such as `session.qdq_matmulnbits_accuracy_level`. */
  readonly settings?: Readonly<Record<string, string>>;
  readonly signal?: AbortSignal;
};

export interface OpenedModel {
  /** A handle for the other calls. */
  readonly session: number;
  readonly inputs: readonly ValueDescription[];
  readonly outputs: readonly ValueDescription[];
}

export interface RunOptions {
  /** A value for every input of the graph. */
  readonly feeds: Readonly<Record<string, Feed>>;
  /** Outputs to return. */
  readonly fetch: readonly string[];
  /** Outputs to keep inside the engine, and the names under which any session can be fed with them. */
  readonly keep?: Readonly<Record<string, string>>;
  /**
   * Moves the arrays of `feeds` to the engine instead of copying them: they are empty afterwards. A view on a
   * part of a buffer is copied all the same.
   */
  readonly transfer?: boolean;
  readonly signal?: AbortSignal;
}

export interface GenerateOptions {
  /** Session of `embed_tokens`; left out for a decoder that takes `input_ids` itself. */
  readonly embed?: number;
  /** Session of the decoder. */
  readonly decoder: number;
  /** Ids of tokens, at least one. */
  readonly prompt: Int32Array;
  /** Passes over one token after the prompt. */
  readonly steps: number;
  /** `greedy`: the likeliest token; `fixed`: the last one of the prompt, again and again, to measure speed. */
  readonly choose: "greedy" | "fixed";
  /** End a greedy generation when they are chosen. */
  readonly stopTokens?: readonly number[];
  /** Tokens of the prompt that go through at once; all of them when left out. */
  readonly chunk?: number;
  /** Which logits to return: those after the last token, or those of all tokens of the prompt as well. */
  readonly logits?: "last" | "all";
  readonly signal?: AbortSignal;
}

export interface Generation {
  /** One a step; a stop token, if one was chosen, comes last and has no step. */
  readonly tokens: Int32Array;
  /** Over the whole prompt. */
  readonly promptSeconds: number;
  /** Of every step: both graphs, without the choice of the token. */
  readonly stepSeconds: readonly number[];
  /** [vocabulary], when asked for. */
  readonly lastLogits?: Float32Array;
  /** [tokens of the prompt, vocabulary], when asked for. */
  readonly promptLogits?: Float32Array;
}

/** ONNX Runtime in a thread of its own; several graphs may be open in it, and one call runs at a time. */
export interface OnnxEngine {
  info(): Promise<Pick<EngineInfo, "name" | "version">>;
  /** @throws EngineError with the runtime's own reason when it does not take the model */
  open(options: OpenOptions): Promise<OpenedModel>;
  /**
   * Runs a graph once.
   *
   * @returns the fetched outputs by name
   * @throws EngineError that names the input or output when a value does not fit, and with the runtime's own
   *   reason when the run fails
   */
  run(session: number, options: RunOptions): Promise<Record<string, TensorValue>>;
  /** Forgets kept values; names under which nothing is kept are no mistake. */
  drop(names: readonly string[]): Promise<void>;
  /**
   * Feeds a prompt and then one token after the other, on graphs in the layout of transformers.js: the caches
   * stay in the thread, and no message lies between two steps. Caches are empty at the start.
   *
   * @throws EngineError when the graphs are not in that layout
   */
  generate(options: GenerateOptions): Promise<Generation>;
  /**
   * Largest resident memory of the whole process since its start, in bytes: a thread has none of its own, so
   * what the process did before counts too.
   */
  peakMemory(): Promise<number>;
  /** With a handle closes that session, without one ends the engine. */
  close(session?: number): Promise<void>;
}
