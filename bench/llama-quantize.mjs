// llama.cpp's quantizer as a process of its own, for `quantize.mjs`:
//
//   node bench/llama-quantize.mjs INPUT OUTPUT FILE-TYPE THREADS [IMATRIX]
import koffi from "koffi";
import { readImportance } from "../dist/formats/imatrix/read.js";
import { locateLlama } from "../dist/src/engines/llama/platform.js";

const [input, output, fileType, threads, imatrix] = process.argv.slice(2);
const { libraries, folder, release } = locateLlama();
if (release !== "0.5.0") throw new Error(`quantize parameters are known for 0.5.0, not ${release}`);
koffi.load(libraries.base);
const ggml = koffi.load(libraries.ggml);
const llama = koffi.load(libraries.llama);
const entry = koffi.struct({ name: "str", data: "float *", size: "size_t" });
// include/llama.h of v0.5.0.
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
ggml.func("ggml_backend_load_all_from_path", "void", ["str"])(folder);
const defaults = llama.func("llama_model_quantize_default_params", params, []);
const quantize = llama.func("llama_model_quantize", "uint32_t", ["str", "str", koffi.pointer(params)]);

let entries = null;
if (imatrix !== undefined) {
  const matrix = await readImportance(imatrix);
  entries = [...matrix.entries].map(([name, { values }]) => {
    const data = new Float32Array(values);
    return { name, data, size: data.length };
  });
  entries.push({ name: null, data: null, size: 0 });
}
const order = { ...defaults(), nthread: Number(threads), ftype: Number(fileType), imatrix: entries };
process.exitCode = quantize(input, output, order) === 0 ? 0 : 1;
