import { EngineError } from "../errors.js";

/** Name and version of lapidary's optional dependency. */
export const RUNTIME_PACKAGE = { name: "onnxruntime-node", version: "1.30.0" } as const;

const INSTALL = `Run \`ONNXRUNTIME_NODE_INSTALL=skip npm install ${RUNTIME_PACKAGE.name}@${RUNTIME_PACKAGE.version}\` where lapidary is installed; without the variable its install script fetches CUDA libraries and fails where it cannot.`;

/*
 * The part of onnxruntime-node that is used. Declared here because the package is optional: without it, or on
 * a system that it has no library for, everything else still has to build.
 */

export interface RuntimeTensor {
  readonly type: string;
  readonly dims: readonly number[];
  readonly data: ArrayBufferView & { readonly length: number };
}

export interface RuntimeValueMetadata {
  readonly name: string;
  readonly isTensor: boolean;
  readonly type?: string;
  readonly shape?: readonly (number | string)[];
}

export interface RuntimeSession {
  readonly inputMetadata: readonly RuntimeValueMetadata[];
  readonly outputMetadata: readonly RuntimeValueMetadata[];
  run(
    feeds: Readonly<Record<string, RuntimeTensor>>,
    fetches: readonly string[],
    options: { readonly logSeverityLevel: number },
  ): Promise<Record<string, RuntimeTensor>>;
  release(): Promise<void>;
}

export interface RuntimeSessionOptions {
  readonly executionProviders: readonly string[];
  readonly executionMode: "sequential";
  readonly intraOpNumThreads: number;
  readonly interOpNumThreads: number;
  readonly graphOptimizationLevel: "all" | "disabled";
  readonly logSeverityLevel: number;
  readonly optimizedModelFilePath?: string;
  readonly extra: Readonly<Record<string, string>>;
}

export interface Runtime {
  readonly env: { logLevel?: string; readonly versions: { readonly node?: string } };
  readonly Tensor: new (type: string, data: ArrayBufferView, dims: readonly number[]) => RuntimeTensor;
  readonly InferenceSession: {
    create(model: string | Uint8Array, options: RuntimeSessionOptions): Promise<RuntimeSession>;
  };
}

/** Whether an import failed because there is no such package, and not because of something inside it. */
function isMissing(error: unknown, name: string): boolean {
  const { code, message } = error as { code?: unknown; message?: unknown };
  const absent = code === "ERR_MODULE_NOT_FOUND" || code === "MODULE_NOT_FOUND";
  return absent && String(message).startsWith(`Cannot find package '${name}'`);
}

/**
 * Loads ONNX Runtime.
 *
 * @param name of the package, or URL of a module that exports the same
 * @throws EngineError `engine-missing` when the package is not there, `engine-library` when it does not load
 */
export async function loadRuntime(name: string): Promise<Runtime> {
  let module: unknown;
  try {
    module = await import(name);
  } catch (cause) {
    if (isMissing(cause, name)) {
      throw new EngineError("engine-missing", `The optional package ${name} is not installed.`, {
        advice: INSTALL,
        cause,
      });
    }
    const reason = (cause instanceof Error ? cause.message : String(cause)).split("\n")[0];
    throw new EngineError(
      "engine-library",
      `${name} cannot be loaded on ${process.platform} ${process.arch}: ${reason}`,
      { advice: INSTALL, cause },
    );
  }
  const { default: runtime } = module as { default?: Partial<Runtime> };
  if (typeof runtime?.InferenceSession?.create !== "function" || typeof runtime.Tensor !== "function") {
    throw new EngineError("engine-library", `${name} is not a build of ONNX Runtime for Node.`, {
      advice: INSTALL,
    });
  }
  const loaded = runtime as Runtime;
  // Warnings of the library go straight to standard error; what matters comes as an exception.
  loaded.env.logLevel = "fatal";
  return loaded;
}
