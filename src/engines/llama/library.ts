import koffi, { type KoffiFunc, type LibraryHandle, type TypeObject } from "koffi";
import { EngineError } from "../errors.js";
import { checkDefaults, LAYOUTS, type FieldType, type FieldValue, type StructLayout } from "./layouts.js";
import type { Installation } from "./platform.js";

export type Pointer = bigint;

/** A parameter structure as an object; fields are those of `layouts.ts`. */
export type Params = Record<string, FieldValue>;

/** `llama_batch`; a null `logits` asks for the last token's only. Positions follow the cache by themselves. */
export interface Batch {
  readonly n_tokens: number;
  readonly token: Int32Array;
  readonly embd: null;
  readonly pos: null;
  readonly n_seq_id: null;
  readonly seq_id: null;
  readonly logits: Int8Array | null;
}

/** The functions of libllama and libggml that the engine calls, under their own names. */
export interface Llama {
  readonly version: string;
  modelParams(): Params;
  contextParams(): Params;
  systemInfo(): string;
  /** Null on failure; the reason is in llama.cpp's log, on standard error. Runs off the event loop. */
  loadModel(path: string, params: Params): Promise<Pointer | null>;
  freeModel(model: Pointer): void;
  /** Null on failure. Runs off the event loop. */
  newContext(model: Pointer, params: Params): Promise<Pointer | null>;
  freeContext(context: Pointer): void;
  vocabulary(model: Pointer): Pointer;
  vocabularySize(vocabulary: Pointer): number;
  bos(vocabulary: Pointer): number;
  addsBos(vocabulary: Pointer): boolean;
  parameterCount(model: Pointer): number;
  modelBytes(model: Pointer): number;
  describe(model: Pointer): string;
  /** Number of tokens; negative: the number that would have needed room. Runs off the event loop. */
  tokenize(
    vocabulary: Pointer,
    text: Uint8Array,
    tokens: Int32Array,
    options: { special: boolean; bos: boolean },
  ): Promise<number>;
  clearMemory(context: Pointer, data: boolean): void;
  decode(context: Pointer, batch: Batch): number;
  decodeAsync(context: Pointer, batch: Batch): Promise<number>;
  synchronize(context: Pointer): void;
  /** The rows of the last batch whose logits were asked for, in llama.cpp's own memory. */
  logits(context: Pointer, rows: number, columns: number): Float32Array | null;
  /**
   * Has a context computed by this many threads. All contexts of this process share them: idle threads of
   * ggml spin for a while, and those of one model would take the cores from the next one's (measured: two
   * models in turn on two cores ran at half speed with threads of their own).
   *
   * @throws EngineError when the threads cannot be started
   */
  attachThreads(context: Pointer, threads: number): void;
}

const C_TYPES: Readonly<Record<FieldType, string>> = {
  i32: "int32_t",
  u32: "uint32_t",
  f32: "float",
  bool: "bool",
  size: "size_t",
  pointer: "void *",
};

/** `GGML_BACKEND_DEVICE_TYPE_CPU` */
const CPU_DEVICE = 0;

/**
 * Room for `ggml_threadpool_params` (532 bytes in the known releases), which is only ever filled and read
 * by ggml itself, so its fields need not be known here.
 */
const THREADPOOL_PARAMS_BYTES = 4096;

function defineStruct(layout: StructLayout): TypeObject {
  const struct = koffi.struct(Object.fromEntries(layout.fields.map(([name, type]) => [name, C_TYPES[type]])));
  const moved = layout.fields.find(([name, , offset]) => koffi.offsetof(struct, name) !== offset);
  if (moved !== undefined || koffi.sizeof(struct) !== layout.size) {
    throw new EngineError(
      "engine-layout",
      `This system lays out structures differently from llama.cpp's known layout (field ${moved?.[0] ?? "at the end"}).`,
    );
  }
  return struct;
}

function offLoop<A extends unknown[], R>(call: KoffiFunc<(...args: A) => R>): (...args: A) => Promise<R> {
  return (...args) =>
    new Promise((resolve, reject) => {
      call.async(...args, (error: Error | null, result: R) => {
        if (error === null) resolve(result);
        else reject(error);
      });
    });
}

function open(path: string): LibraryHandle {
  try {
    return koffi.load(path);
  } catch (cause) {
    throw new EngineError(
      "engine-library",
      `${path} cannot be loaded: ${cause instanceof Error ? cause.message : String(cause)}.`,
      { advice: "Install lapidary's packages again.", cause },
    );
  }
}

/**
 * Loads llama.cpp into this process and makes its functions callable.
 *
 * Three guards stand before the first use: the package names a known release, the library itself claims
 * the same one, and both default parameter structures read back exactly as that release has them.
 *
 * llama.cpp logs to standard error, where the parent process reads it. It is not given a callback: log
 * lines may come from llama.cpp's own threads, which would have to wait for this thread while it waits
 * for them.
 *
 * @throws EngineError
 */
export function openLlama(installation: Installation): Llama {
  const layout = LAYOUTS[installation.release];
  if (layout === undefined) {
    throw new EngineError(
      "engine-release",
      `The structures of llama.cpp ${installation.release} are not known.`,
    );
  }
  // Each depends on those before it, and finds them because they are loaded already.
  const base = open(installation.libraries.base);
  const ggml = open(installation.libraries.ggml);
  const llama = open(installation.libraries.llama);

  const llamaVersion: () => string = llama.func("llama_version", "str", []);
  const version = llamaVersion();
  // Builds from a source archive call themselves 0.5.0-dev.
  if (version.replace(/-dev$/, "") !== installation.release) {
    throw new EngineError(
      "engine-layout",
      `${installation.package} claims to be llama.cpp ${installation.release}, but its library says ${version}.`,
      { advice: "Install lapidary's packages again." },
    );
  }

  const ModelParams = defineStruct(layout.modelParams);
  const ContextParams = defineStruct(layout.contextParams);
  const BatchStruct = defineStruct(layout.batch);
  const modelParams: () => Params = llama.func("llama_model_default_params", ModelParams, []);
  const contextParams: () => Params = llama.func("llama_context_default_params", ContextParams, []);
  checkDefaults("model parameters", layout.modelParams, modelParams());
  checkDefaults("context parameters", layout.contextParams, contextParams());

  const loadBackends: (folder: string) => void = ggml.func("ggml_backend_load_all_from_path", "void", [
    "str",
  ]);
  const deviceByType: (type: number) => Pointer | null = ggml.func("ggml_backend_dev_by_type", "void *", [
    "int",
  ]);
  loadBackends(installation.folder);
  const cpu = deviceByType(CPU_DEVICE);
  if (cpu === null) {
    throw new EngineError("engine-library", `${installation.folder} holds no back end for this processor.`, {
      advice: "Install lapidary's packages again.",
    });
  }

  const registryOf: (device: Pointer) => Pointer = base.func("ggml_backend_dev_backend_reg", "void *", [
    "void *",
  ]);
  const procedure: (registry: Pointer, name: string) => Pointer | null = base.func(
    "ggml_backend_reg_get_proc_address",
    "void *",
    ["void *", "str"],
  );
  const cpuFunction = (name: string): Pointer => {
    const address = procedure(registryOf(cpu), name);
    if (address === null) throw new EngineError("engine-library", `ggml's CPU back end has no ${name}.`);
    return address;
  };
  const newPool = cpuFunction("ggml_threadpool_new");
  const newPoolType = koffi.proto("void *", ["void *"]);
  /** By number of threads; they live as long as the process. */
  const pools = new Map<number, Pointer>();
  const initPoolParams: (params: Uint8Array, threads: number) => void = base.func(
    "ggml_threadpool_params_init",
    "void",
    ["void *", "int"],
  );

  const loadModel: KoffiFunc<(path: string, params: Params) => Pointer | null> = llama.func(
    "llama_model_load_from_file",
    "void *",
    ["str", ModelParams],
  );
  const newContext: KoffiFunc<(model: Pointer, params: Params) => Pointer | null> = llama.func(
    "llama_init_from_model",
    "void *",
    ["void *", ContextParams],
  );
  const decode: KoffiFunc<(context: Pointer, batch: Batch) => number> = llama.func(
    "llama_decode",
    "int32_t",
    ["void *", BatchStruct],
  );
  const tokenize: KoffiFunc<
    (
      vocabulary: Pointer,
      text: Uint8Array,
      textBytes: number,
      tokens: Int32Array,
      room: number,
      bos: boolean,
      special: boolean,
    ) => number
  > = llama.func("llama_tokenize", "int32_t", [
    "void *",
    "void *",
    "int32_t",
    "void *",
    "int32_t",
    "bool",
    "bool",
  ]);
  const describe: (model: Pointer, text: Uint8Array, room: number) => number = llama.func(
    "llama_model_desc",
    "int32_t",
    ["void *", "void *", "size_t"],
  );
  const memoryOf: (context: Pointer) => Pointer = llama.func("llama_get_memory", "void *", ["void *"]);
  const clearMemory: (memory: Pointer, data: boolean) => void = llama.func("llama_memory_clear", "void", [
    "void *",
    "bool",
  ]);
  const getLogits: (context: Pointer) => Pointer | null = llama.func("llama_get_logits", "void *", [
    "void *",
  ]);
  const attach: (context: Pointer, pool: Pointer, batchPool: null) => void = llama.func(
    "llama_attach_threadpool",
    "void",
    ["void *", "void *", "void *"],
  );

  const initialize: () => void = llama.func("llama_backend_init", "void", []);
  initialize();

  const tokenizeOffLoop = offLoop(tokenize);
  return {
    version,
    modelParams,
    contextParams,
    systemInfo: llama.func("llama_print_system_info", "str", []),
    loadModel: offLoop(loadModel),
    freeModel: llama.func("llama_model_free", "void", ["void *"]),
    newContext: offLoop(newContext),
    freeContext: llama.func("llama_free", "void", ["void *"]),
    vocabulary: llama.func("llama_model_get_vocab", "void *", ["void *"]),
    vocabularySize: llama.func("llama_vocab_n_tokens", "int32_t", ["void *"]),
    bos: llama.func("llama_vocab_bos", "int32_t", ["void *"]),
    addsBos: llama.func("llama_vocab_get_add_bos", "bool", ["void *"]),
    parameterCount: llama.func("llama_model_n_params", "uint64_t", ["void *"]),
    modelBytes: llama.func("llama_model_size", "uint64_t", ["void *"]),
    describe(model) {
      const text = Buffer.alloc(256);
      const length = describe(model, text, text.length);
      return text.toString("utf8", 0, Math.max(0, Math.min(length, text.length - 1)));
    },
    tokenize: (vocabulary, text, tokens, { bos, special }) =>
      tokenizeOffLoop(vocabulary, text, text.length, tokens, tokens.length, bos, special),
    clearMemory: (context, data) => clearMemory(memoryOf(context), data),
    decode,
    decodeAsync: offLoop(decode),
    synchronize: llama.func("llama_synchronize", "void", ["void *"]),
    logits(context, rows, columns) {
      const address = getLogits(context);
      return address === null ? null : new Float32Array(koffi.view(address, rows * columns * 4));
    },
    attachThreads(context, threads) {
      let pool = pools.get(threads);
      if (pool === undefined) {
        const params = new Uint8Array(THREADPOOL_PARAMS_BYTES);
        initPoolParams(params, threads);
        const made = koffi.call(newPool, newPoolType, params) as Pointer | null;
        if (made === null)
          throw new EngineError("engine-threads", `llama.cpp could not start ${threads} threads.`);
        pool = made;
        pools.set(threads, pool);
      }
      attach(context, pool, null);
    },
  };
}
