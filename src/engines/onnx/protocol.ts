import type { ExitCode } from "../../base/errors.js";
import type { EngineInfo } from "../types.js";
import type {
  GenerateOptions,
  Generation,
  OpenedModel,
  OpenOptions,
  RunOptions,
  TensorValue,
} from "./types.js";

/** What the thread is started with. */
export interface WorkerSetup {
  /** Memory of the gate that both threads look at. */
  readonly gate: SharedArrayBuffer;
}

/** Options of the engine without what only the main thread knows of. */
type Sent<T> = T extends unknown ? Omit<T, "signal" | "transfer"> : never;

/** What the main thread may ask of the other one, and what it gets. */
export interface Calls {
  load: { request: { module: string }; result: Pick<EngineInfo, "name" | "version"> };
  open: { request: { options: Sent<OpenOptions> }; result: OpenedModel };
  run: {
    request: { session: number; options: Sent<RunOptions> };
    result: Record<string, TensorValue>;
  };
  drop: { request: { names: readonly string[] }; result: null };
  generate: { request: { options: Sent<GenerateOptions> }; result: Generation };
  peakMemory: { request: object; result: number };
  closeSession: { request: { session: number }; result: null };
  /** Ends the thread; the answer is that it ends. */
  end: { request: object; result: null };
}

export type CallName = keyof Calls;

export type Request = {
  [N in CallName]: { readonly id: number; readonly call: N } & Calls[N]["request"];
}[CallName];

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
}

export type Reply = Success | Failure;
