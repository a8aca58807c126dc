import { existsSync } from "node:fs";
import { createRequire } from "node:module";
import { join } from "node:path";
import koffi from "koffi";

/** Folder of llama.cpp's libraries for this platform, from the optional package that carries them. */
function findLibrary(): string | undefined {
  const { platform, arch } = process;
  const system = { linux: "linux", darwin: "mac", win32: "win" }[platform as string];
  const name = `${system}-${arch}${system === "mac" && arch === "arm64" ? "-metal" : ""}`;
  const file = { linux: "libggml-base.so", mac: "libggml-base.dylib", win: "ggml-base.dll" }[system ?? ""];
  const folders = createRequire(import.meta.url).resolve.paths("@node-llama-cpp/x") ?? [];
  return folders
    .map((folder) => join(folder, "@node-llama-cpp", name, "bins", name, file ?? ""))
    .find((path) => existsSync(path));
}

const path = findLibrary();

/** Whether llama.cpp's libraries exist for this platform at all; where they do not, tests against them are skipped. */
export const hasGgml = path !== undefined;

type Pointer = bigint | null;

/** The functions of libggml-base that read GGUF, typed; see ggml/include/gguf.h. */
interface GgmlBase {
  gguf_init_from_file(path: string, params: { no_alloc: boolean; ctx: null }): Pointer;
  gguf_init_from_buffer(data: Uint8Array, size: number, params: { no_alloc: boolean; ctx: null }): Pointer;
  gguf_free(context: Pointer): void;
  gguf_get_version(context: Pointer): number;
  gguf_get_alignment(context: Pointer): number;
  gguf_get_data_offset(context: Pointer): number;
  gguf_get_n_kv(context: Pointer): number;
  gguf_get_key(context: Pointer, index: number): string;
  gguf_get_kv_type(context: Pointer, index: number): number;
  gguf_get_arr_type(context: Pointer, index: number): number;
  gguf_get_arr_n(context: Pointer, index: number): number;
  gguf_get_arr_str(context: Pointer, index: number, element: number): string;
  gguf_get_arr_data(context: Pointer, index: number): bigint;
  gguf_get_val_str(context: Pointer, index: number): string;
  gguf_get_val_data(context: Pointer, index: number): bigint;
  gguf_get_n_tensors(context: Pointer): number;
  gguf_get_tensor_name(context: Pointer, index: number): string;
  gguf_get_tensor_type(context: Pointer, index: number): number;
  gguf_get_tensor_offset(context: Pointer, index: number): number;
  gguf_get_tensor_size(context: Pointer, index: number): number;
  gguf_get_tensor_ne(context: Pointer, index: number): bigint;
  gguf_get_meta_size(context: Pointer): number;
  gguf_get_meta_data(context: Pointer, data: Uint8Array): void;
  ggml_type_name(type: number): string | null;
  ggml_type_size(type: number): number;
  ggml_blck_size(type: number): number;
}

const SIGNATURES: Readonly<Record<keyof GgmlBase, string>> = {
  gguf_init_from_file: "void *gguf_init_from_file(const char *path, gguf_init_params params)",
  gguf_init_from_buffer:
    "void *gguf_init_from_buffer(const void *data, size_t size, gguf_init_params params)",
  gguf_free: "void gguf_free(void *ctx)",
  gguf_get_version: "uint32_t gguf_get_version(void *ctx)",
  gguf_get_alignment: "size_t gguf_get_alignment(void *ctx)",
  gguf_get_data_offset: "size_t gguf_get_data_offset(void *ctx)",
  gguf_get_n_kv: "int64_t gguf_get_n_kv(void *ctx)",
  gguf_get_key: "const char *gguf_get_key(void *ctx, int64_t i)",
  gguf_get_kv_type: "int gguf_get_kv_type(void *ctx, int64_t i)",
  gguf_get_arr_type: "int gguf_get_arr_type(void *ctx, int64_t i)",
  gguf_get_arr_n: "size_t gguf_get_arr_n(void *ctx, int64_t i)",
  gguf_get_arr_str: "const char *gguf_get_arr_str(void *ctx, int64_t i, size_t element)",
  gguf_get_arr_data: "void *gguf_get_arr_data(void *ctx, int64_t i)",
  gguf_get_val_str: "const char *gguf_get_val_str(void *ctx, int64_t i)",
  gguf_get_val_data: "void *gguf_get_val_data(void *ctx, int64_t i)",
  gguf_get_n_tensors: "int64_t gguf_get_n_tensors(void *ctx)",
  gguf_get_tensor_name: "const char *gguf_get_tensor_name(void *ctx, int64_t i)",
  gguf_get_tensor_type: "int gguf_get_tensor_type(void *ctx, int64_t i)",
  gguf_get_tensor_offset: "size_t gguf_get_tensor_offset(void *ctx, int64_t i)",
  gguf_get_tensor_size: "size_t gguf_get_tensor_size(void *ctx, int64_t i)",
  gguf_get_tensor_ne: "void *gguf_get_tensor_ne(void *ctx, int64_t i)",
  gguf_get_meta_size: "size_t gguf_get_meta_size(void *ctx)",
  gguf_get_meta_data: "void gguf_get_meta_data(void *ctx, _Out_ uint8_t *data)",
  ggml_type_name: "const char *ggml_type_name(int type)",
  ggml_type_size: "size_t ggml_type_size(int type)",
  ggml_blck_size: "int64_t ggml_blck_size(int type)",
};

let loaded: GgmlBase | undefined;

/** llama.cpp's base library, its log silenced; loaded once. */
export function ggmlBase(): GgmlBase {
  if (loaded) return loaded;
  if (path === undefined) throw new Error("no llama.cpp library for this platform; ask hasGgml first");
  const library = koffi.load(path);
  koffi.struct("gguf_init_params", { no_alloc: "bool", ctx: "void *" });
  const log = koffi.proto("void ggml_log_callback(int level, const char *text, void *user)");
  const setLog = library.func("ggml_log_set", "void", [koffi.pointer(log), "void *"]) as (
    callback: bigint,
    user: null,
  ) => void;
  setLog(
    koffi.register(() => {}, koffi.pointer(log)),
    null,
  );
  const functions = Object.entries(SIGNATURES).map(
    ([name, signature]) => [name, library.func(signature) as unknown] as const,
  );
  loaded = Object.fromEntries(functions) as unknown as GgmlBase;
  return loaded;
}

/** One metadata entry as llama.cpp reads it: the type ids, and the raw bytes or the strings. */
export interface GgmlEntry {
  readonly key: string;
  readonly type: number;
  readonly of?: number;
  readonly length: number;
  readonly value: readonly string[] | Uint8Array;
}

export interface GgmlTensor {
  readonly name: string;
  readonly type: string;
  readonly ne: readonly number[];
  /** From the start of the data section. */
  readonly offset: number;
  readonly byteLength: number;
}

export interface GgmlGguf {
  readonly version: number;
  readonly alignment: number;
  readonly dataOffset: number;
  readonly entries: readonly GgmlEntry[];
  readonly tensors: readonly GgmlTensor[];
  /** The header as llama.cpp would write it. */
  readonly header: Uint8Array;
}

const STRING = 8;
const ARRAY = 9;
/** Bytes of a value by its type id. */
const VALUE_BYTES = [1, 1, 2, 2, 4, 4, 4, 1, 0, 0, 8, 8, 8];

function copyFrom(pointer: bigint, bytes: number): Uint8Array {
  return bytes === 0 ? new Uint8Array() : new Uint8Array(koffi.view(pointer, bytes)).slice();
}

function readEntry(ggml: GgmlBase, context: Pointer, index: number): GgmlEntry {
  const key = ggml.gguf_get_key(context, index);
  const type = ggml.gguf_get_kv_type(context, index);
  if (type === STRING) return { key, type, length: 1, value: [ggml.gguf_get_val_str(context, index)] };
  if (type !== ARRAY) {
    const value = copyFrom(ggml.gguf_get_val_data(context, index), VALUE_BYTES[type]!);
    return { key, type, length: 1, value };
  }
  const of = ggml.gguf_get_arr_type(context, index);
  const length = ggml.gguf_get_arr_n(context, index);
  const value =
    of === STRING
      ? Array.from({ length }, (_, element) => ggml.gguf_get_arr_str(context, index, element))
      : copyFrom(ggml.gguf_get_arr_data(context, index), length * VALUE_BYTES[of]!);
  return { key, type, of, length, value };
}

function readContext(ggml: GgmlBase, context: Pointer): GgmlGguf {
  const header = new Uint8Array(ggml.gguf_get_meta_size(context));
  ggml.gguf_get_meta_data(context, header);
  return {
    version: ggml.gguf_get_version(context),
    alignment: ggml.gguf_get_alignment(context),
    dataOffset: ggml.gguf_get_data_offset(context),
    entries: Array.from({ length: ggml.gguf_get_n_kv(context) }, (_, i) => readEntry(ggml, context, i)),
    tensors: Array.from({ length: ggml.gguf_get_n_tensors(context) }, (_, i) => ({
      name: ggml.gguf_get_tensor_name(context, i),
      type: ggml.ggml_type_name(ggml.gguf_get_tensor_type(context, i)) ?? "",
      ne: Array.from(new BigInt64Array(koffi.view(ggml.gguf_get_tensor_ne(context, i), 32).slice(0)), Number),
      offset: ggml.gguf_get_tensor_offset(context, i),
      byteLength: ggml.gguf_get_tensor_size(context, i),
    })),
    header,
  };
}

/** What llama.cpp's own reader makes of a file, or undefined when it refuses it. */
export function readWithGgml(file: string): GgmlGguf | undefined {
  const ggml = ggmlBase();
  const context = ggml.gguf_init_from_file(file, { no_alloc: true, ctx: null });
  if (context === null) return undefined;
  try {
    return readContext(ggml, context);
  } finally {
    ggml.gguf_free(context);
  }
}

/** Whether llama.cpp's own reader accepts these bytes as the header of a GGUF file. */
export function ggmlAccepts(bytes: Uint8Array): boolean {
  const ggml = ggmlBase();
  const context = ggml.gguf_init_from_buffer(bytes, bytes.length, { no_alloc: true, ctx: null });
  if (context === null) return false;
  ggml.gguf_free(context);
  return true;
}
