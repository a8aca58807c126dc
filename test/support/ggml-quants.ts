import { existsSync } from "node:fs";
import { createRequire } from "node:module";
import { join } from "node:path";
import koffi from "koffi";
import { blockType, rowBytes } from "../../src/blocks/table.js";
import type { BlockTypeName } from "../../src/blocks/types.js";

/** ggml's own conversions, from the library that llama.cpp is shipped with. */
export interface GgmlQuants {
  /** Name, values and bytes of a block by type id. */
  layout(id: number): { name: string; values: number; bytes: number };
  /** `ggml_quantize_chunk` on one row. */
  quantize(type: BlockTypeName, values: Float32Array, importance?: Float32Array): Uint8Array;
  /** `dequantize_row_*`. */
  dequantize(type: BlockTypeName, bytes: Uint8Array): Float32Array;
  /** `ggml_fp16_to_fp32_row` and `ggml_bf16_to_fp32_row`, as bit patterns. */
  widen(type: "F16" | "BF16", bits: Uint16Array): Uint32Array;
  /** `ggml_fp32_to_fp16_row` and `ggml_fp32_to_bf16_row_ref`, on and to bit patterns. */
  narrow(type: "F16" | "BF16", bits: Uint32Array): Uint16Array;
}

function libraryPath(): string | undefined {
  // Elsewhere C compilers may fuse multiplications with additions, and conversions out of range give other bits.
  if (process.platform !== "linux" || process.arch !== "x64") return undefined;
  // The package exports none of its files, so it is looked up by folder.
  const folders = createRequire(import.meta.url).resolve.paths("@node-llama-cpp/linux-x64") ?? [];
  return folders
    .map((folder) => join(folder, "@node-llama-cpp/linux-x64/bins/linux-x64/libggml-base.so"))
    .find((path) => existsSync(path));
}

/** ggml's conversions, or undefined where its x86-64 library is not installed. */
export function loadGgmlQuants(): GgmlQuants | undefined {
  const path = libraryPath();
  if (path === undefined) return undefined;
  const library = koffi.load(path);
  const typeName = library.func("const char *ggml_type_name(int)");
  const blockSize = library.func("int64_t ggml_blck_size(int)");
  const typeSize = library.func("size_t ggml_type_size(int)");
  const quantizeChunk = library.func(
    "size_t ggml_quantize_chunk(int, const float *, void *, int64_t, int64_t, int64_t, const float *)",
  );
  return {
    layout: (id) => ({
      name: String(typeName(id)),
      values: Number(blockSize(id)),
      bytes: Number(typeSize(id)),
    }),
    quantize(type, values, importance) {
      const out = new Uint8Array(rowBytes(type, values.length));
      quantizeChunk(blockType(type).id, values, out, 0, 1, values.length, importance ?? null);
      return out;
    },
    dequantize(type, bytes) {
      const { values, bytes: size } = blockType(type);
      const out = new Float32Array((bytes.length / size) * values);
      const suffix = type.toLowerCase().replace(/^(q\d)_k$/, "$1_K");
      library.func(`void dequantize_row_${suffix}(const void *, float *, int64_t)`)(bytes, out, out.length);
      return out;
    },
    widen(type, bits) {
      const out = new Uint32Array(bits.length);
      const name = type === "F16" ? "ggml_fp16_to_fp32_row" : "ggml_bf16_to_fp32_row";
      library.func(`void ${name}(const void *, void *, int64_t)`)(bits, out, bits.length);
      return out;
    },
    narrow(type, bits) {
      const out = new Uint16Array(bits.length);
      const name = type === "F16" ? "ggml_fp32_to_fp16_row" : "ggml_fp32_to_bf16_row_ref";
      library.func(`void ${name}(const void *, void *, int64_t)`)(bits, out, bits.length);
      return out;
    },
  };
}
