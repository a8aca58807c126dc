import type { OnnxEngine } from "../../src/engines/onnx/types.js";
import type { CheckpointParts } from "../../src/gemma4/graph/files.js";
import { AblationWalk } from "./ablation-walk.js";

/** Weights that are rounded together, and nothing else of the model. */
export interface Variant {
  readonly name: string;
  /** Their names in the checkpoint without the prefix; the output matrix of a tied model is `lm_head.weight`. */
  readonly weights: readonly string[];
}

export interface AblateOptions {
  readonly engine: OnnxEngine;
  readonly checkpoint: CheckpointParts;
  /** Token ids; those of one length one after the other run together. */
  readonly windows: readonly Int32Array[];
  readonly variants: readonly Variant[];
  /**
   * Writes the values of a weight as it is rounded in a variant: little-endian floats in the weight's own shape. A variant
   * asks for them when it is their turn, and the file goes away behind it.
   */
  readonly write: (path: string, weight: string, variant: Variant) => Promise<void>;
  readonly threads: number;
  /** An existing folder for states and weights; what is put there is removed in the end. */
  readonly scratch: string;
  /** Bytes of states that are held in memory; beyond that they go to the scratch folder. */
  readonly stateMemory: number;
  /** Bytes for all that is of the size of logits: they are made of so many tokens at once as fit. */
  readonly logitMemory: number;
  readonly signal?: AbortSignal | undefined;
  /** Told of the runs of steps, of one batch each, that are done. */
  readonly onProgress?: (done: number, total: number) => void;
}

/** What rounding the weights of a variant does to the predictions of the model. */
export interface Ablation {
  readonly variant: Variant;
  /** Mean KL divergence to the unrounded model at all tokens but the last of each window, in nats. */
  readonly kld: number;
  /** Share of the tokens at which both find the same next token most likely. */
  readonly sameTop: number;
}

/**
 * Measures what each variant costs. The unrounded model is walked through once, a step at a time, and the states of all
 * variants go along: a variant begins at the first step that reads one of its weights, with the states of the unrounded
 * model, and from there on runs through the same open graphs as all others, but where its own weights are read.
 *
 * @returns one a variant, in their order
 * @throws StatisticsError for windows and ids that are none, EngineError with the runtime's own reason, OutputError for
 *   the scratch folder, RangeError for a weight that the model does not have, and the signal's reason
 */
export async function ablate(options: AblateOptions): Promise<Ablation[]> {
  const walk = new AblationWalk(options);
  try {
    await walk.layers();
    return await walk.compare();
  } finally {
    await walk.end();
  }
}
