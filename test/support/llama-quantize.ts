import koffi from "koffi";
import { locateLlama } from "../../src/engines/llama/platform.js";

type QuantizeParams = Record<string, unknown> & { nthread: number; ftype: number };

interface Quantizer {
  readonly defaults: () => QuantizeParams;
  readonly quantize: (input: string, output: string, params: QuantizeParams) => number;
}

let bound: Quantizer | undefined;

/** Binds the functions once in a process: types of koffi are not equal to their own redefinition. */
function quantizer(): Quantizer {
  if (bound !== undefined) return bound;
  const { libraries, folder, release } = locateLlama();
  if (release !== "0.5.0") throw new Error(`quantize parameters are known for 0.5.0, not ${release}`);
  koffi.load(libraries.base);
  const ggml = koffi.load(libraries.ggml);
  const llama = koffi.load(libraries.llama);
  // include/llama.h of v0.5.0.
  const entry = koffi.struct({ name: "str", data: "float *", size: "size_t" });
  const params = koffi.struct({
    nthread: "int32_t",
    ftype: "int",
    output_tensor_type: "int",
    token_embedding_type: "int",
    allow_requantize: "bool",
    quantize_output_tensor: "bool",
    only_copy: "bool",
    pure: "bool",
    keep_split: "bool",
    dry_run: "bool",
    imatrix: koffi.pointer(entry),
    kv_overrides: "void *",
    tt_overrides: "void *",
    prune_layers: "void *",
    max_buf_size: "size_t",
  });
  const log = koffi.pointer(koffi.proto("void(int level, const char *text, void *data)"));
  llama.func("llama_log_set", "void", [log, "void *"])(
    koffi.register(() => {}, log),
    null,
  );
  ggml.func("ggml_backend_load_all_from_path", "void", ["str"])(folder);
  bound = {
    defaults: llama.func("llama_model_quantize_default_params", params, []) as Quantizer["defaults"],
    quantize: llama.func("llama_model_quantize", "uint32_t", [
      "str",
      "str",
      koffi.pointer(params),
    ]) as Quantizer["quantize"],
  };
  return bound;
}

/** Importance of tensors by name; what llama-quantize makes of a file. */
export type Importances = ReadonlyMap<string, Float32Array>;

/**
 * llama.cpp's own quantizer, from the libraries that the engine uses: what llama-quantize calls.
 *
 * @param fileType `general.file_type` of the mix
 */
export function llamaQuantize(
  input: string,
  output: string,
  fileType: number,
  options: { importances?: Importances | undefined; pure?: boolean; threads?: number } = {},
): void {
  const { importances, pure = false, threads = 1 } = options;
  const { defaults, quantize } = quantizer();
  const entries = [...(importances ?? [])].map(([name, data]) => ({ name, data, size: data.length }));
  const imatrix = importances === undefined ? null : [...entries, { name: null, data: null, size: 0 }];
  const status = quantize(input, output, {
    ...defaults(),
    nthread: threads,
    ftype: fileType,
    pure,
    imatrix,
  });
  if (status !== 0) throw new Error(`llama_model_quantize of ${input} returned ${status}`);
}
