import type { ExitCode } from "../../src/base/errors.js";
import type { TargetType } from "../../src/pool/tiles.js";
import type { Factor } from "./reverse-ldl.js";
import type { MatrixSource } from "./source.js";
import type { Effort } from "./types.js";

/** What a rounding thread is started with. */
export interface ThreadSetup {
  /** Compiled kernels. */
  readonly kernels: WebAssembly.Module;
  /** Memory of the gate. */
  readonly gate: SharedArrayBuffer;
  /** Package or URL of ONNX Runtime. */
  readonly runtime: string;
}

/** Factors a matrix into shared memory. */
export interface FactorTask {
  readonly kind: "factor";
  /** [size, size]; moved to the thread. */
  readonly matrix: Float32Array<ArrayBuffer>;
  readonly factor: Factor<SharedArrayBuffer>;
  readonly damping: number;
  /** Threads of the runtime. */
  readonly threads: number;
}

/** Rounds rows of a matrix. */
export interface RoundTask {
  readonly kind: "round";
  readonly source: MatrixSource;
  readonly first: number;
  readonly rows: number;
  readonly target: TargetType;
  readonly effort: Effort;
  readonly columnFactors: readonly Factor<SharedArrayBuffer>[];
  /** The form over the rows, [rows, rows], and the damping of its factor; null where there is none. */
  readonly rowForm: { readonly matrix: Float32Array<ArrayBuffer>; readonly damping: number } | null;
  /** For the rows; the thread writes there. */
  readonly outputs: readonly Uint8Array<SharedArrayBuffer>[];
}

export type Task = FactorTask | RoundTask;

export interface TaskResults {
  readonly factor: { readonly damping: number };
  readonly round: {
    /** Under the damped forms. */
    readonly loss: number;
    /** Of the form over the rows; null where there is none. */
    readonly damping: number | null;
  };
}

export type ThreadRequest = { readonly id: number; readonly task: Task } | { readonly end: true };

export type ThreadReply =
  | { readonly kind: "success"; readonly id: number; readonly result: TaskResults[Task["kind"]] }
  | {
      readonly kind: "failure";
      readonly id: number;
      readonly code: string;
      readonly message: string;
      readonly exitCode: ExitCode;
      readonly advice?: string;
    };
