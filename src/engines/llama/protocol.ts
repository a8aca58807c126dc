import type { ExitCode } from "../../base/errors.js";
import type {
  BenchOptions,
  BenchResult,
  EngineInfo,
  LoadOptions,
  ModelInfo,
  Window,
  WindowScores,
} from "../types.js";
import { MARK } from "./log-tail.js";
import type { Installation } from "./platform.js";

/** What the parent may ask of the child process, and what it gets. */
export interface Calls {
  open: { request: { installation: Installation }; result: EngineInfo };
  load: { request: { path: string; options: LoadOptions }; result: { handle: number; model: ModelInfo } };
  tokenize: {
    request: { handle: number; text: string; special: boolean; bos: boolean };
    result: Int32Array;
  };
  /** The numbers come window by window as `Progress`. */
  score: {
    request: { handles: readonly number[]; windows: readonly Window[]; visitor: string };
    result: null;
  };
  bench: { request: { handle: number; options: BenchOptions }; result: BenchResult };
  peakMemory: { request: object; result: number };
  unload: { request: { handle: number }; result: null };
}

export type CallName = keyof Calls;

export type Request = {
  [N in CallName]: { readonly id: number; readonly call: N } & Calls[N]["request"];
}[CallName];

/** One finished window of a `score` call. */
export interface Progress {
  readonly id: number;
  readonly kind: "window";
  readonly scores: WindowScores;
}

export interface Success {
  readonly id: number;
  readonly kind: "success";
  readonly result: Calls[CallName]["result"];
}

export interface Failure {
  readonly id: number;
  readonly kind: "failure";
  readonly code: string;
  readonly message: string;
  readonly advice: string | undefined;
  readonly exitCode: ExitCode;
  /** llama.cpp said in its log why: the parent appends its last lines. */
  readonly logged: boolean;
}

export type Reply = Progress | Success | Failure;

/**
 * Line that the child writes to standard error before it sends a `Failure`. Log and replies travel on
 * different pipes; when the parent has read this line, it has read everything llama.cpp said before.
 */
export function markerLine(id: number): string {
  return `${MARK}lapidary ${id}`;
}
