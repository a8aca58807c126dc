import type { OnnxEngine } from "../../src/engines/onnx/types.js";
import type { CheckpointParts } from "../../src/gemma4/graph/files.js";
import type { Weight } from "../../src/gemma4/types.js";
import type { Replacement } from "./replacements.js";

/** Which moments to sum, and at what cost. */
export interface MomentOptions {
  /** Bytes for the moments of one step; matrices that do not fit become block-diagonal. */
  readonly memory: number;
  /** Inputs wider than this are looked at in part, so that they cost no more than one of this width; 6144. */
  readonly fullColumns?: number;
  /** Whether an input needs moments, by the weights that it is fed to; all do when left out. */
  readonly wanted?: (weights: readonly Weight[]) => boolean;
}

export interface WalkProgress {
  /** Step under way, of `steps`. */
  readonly index: number;
  readonly steps: number;
  readonly layer: number | null;
  /** Tokens of this step that are done, of `total`; a step that is run twice counts both times. */
  readonly tokens: number;
  readonly total: number;
  /** Since the step began, without what is done with its statistics. */
  readonly seconds: number;
}

export interface WalkOptions {
  /** An aborted walk stops it. */
  readonly engine: OnnxEngine;
  readonly checkpoint: CheckpointParts;
  /** Token ids; those of one length one after the other run together. */
  readonly windows: readonly Int32Array[];
  readonly threads: number;
  /**
   * `parallel`: every layer reads what the checkpoint's own layers gave. `sequential`: what those with replaced
   * weights gave; each layer is run twice.
   */
  readonly order: "parallel" | "sequential";
  readonly moments: MomentOptions | null;
  /** In the sequential order: run the unrounded model beside it, for moments between both. */
  readonly cross?: boolean;
  /** An existing folder for states and replaced weights; what is put there is removed in the end. */
  readonly scratch: string;
  /** Bytes of states between layers that are held in memory; beyond that they go to the scratch folder. */
  readonly stateMemory: number;
  /** Keeps the states behind the last step on the disk until all steps are done, so that a later walk can go on. */
  readonly resumable?: boolean;
  /** Steps that need not be done again; the walk begins behind them if the scratch folder still has their states. */
  readonly done?: number;
  /** Weights that were replaced before, by their names without the prefix. */
  readonly replaced?: ReadonlyMap<string, Replacement>;
  readonly signal?: AbortSignal;
  readonly onProgress?: (progress: WalkProgress) => void;
}
