import { EngineError } from "../errors.js";

/** C types that occur in the structures; all pointers count as one. */
export type FieldType = "i32" | "u32" | "f32" | "bool" | "size" | "pointer";

export type FieldValue = number | boolean | bigint | null;

/** Name, type, byte offset, and the value that llama.cpp's own defaults have there (unset: no defaults). */
export type Field = readonly [name: string, type: FieldType, offset: number, preset?: FieldValue];

export interface StructLayout {
  readonly size: number;
  readonly fields: readonly Field[];
}

/** The structures that cross the border by value, for one release of llama.cpp. */
export interface Layout {
  readonly modelParams: StructLayout;
  readonly contextParams: StructLayout;
  readonly batch: StructLayout;
}

/*
 * Offsets and sizes are those that a C compiler gives for include/llama.h (x86-64 and ARM64 agree: every
 * field is aligned to its own size); presets are what llama_model_default_params() and
 * llama_context_default_params() return. Enumerations are i32.
 */
const V0_4: Layout = {
  modelParams: {
    size: 80,
    fields: [
      ["devices", "pointer", 0, null],
      ["tensor_buft_overrides", "pointer", 8, null],
      ["n_gpu_layers", "i32", 16, -1],
      ["split_mode", "i32", 20, 1],
      ["load_mode", "i32", 24, -1],
      ["lazy_mode", "i32", 28, 1],
      ["main_gpu", "i32", 32, 0],
      ["tensor_split", "pointer", 40, null],
      ["progress_callback", "pointer", 48, null],
      ["progress_callback_user_data", "pointer", 56, null],
      ["kv_overrides", "pointer", 64, null],
      ["vocab_only", "bool", 72, false],
      ["check_tensors", "bool", 73, false],
      ["use_extra_bufts", "bool", 74, true],
      ["no_host", "bool", 75, false],
      ["no_alloc", "bool", 76, false],
      ["load_mtp", "bool", 77, false],
    ],
  },
  contextParams: {
    size: 160,
    fields: [
      ["n_ctx", "u32", 0, 512],
      ["n_batch", "u32", 4, 2048],
      ["n_ubatch", "u32", 8, 512],
      ["n_seq_max", "u32", 12, 1],
      ["n_rs_seq", "u32", 16, 0],
      ["n_outputs_max", "u32", 20, 0],
      ["n_outputs_max_per_seq", "u32", 24, 1],
      ["n_threads", "i32", 28, 4],
      ["n_threads_batch", "i32", 32, 4],
      ["ctx_type", "i32", 36, 0],
      ["rope_scaling_type", "i32", 40, -1],
      ["pooling_type", "i32", 44, -1],
      ["attention_type", "i32", 48, -1],
      ["flash_attn_type", "i32", 52, -1],
      ["rope_freq_base", "f32", 56, 0],
      ["rope_freq_scale", "f32", 60, 0],
      ["yarn_ext_factor", "f32", 64, -1],
      ["yarn_attn_factor", "f32", 68, -1],
      ["yarn_beta_fast", "f32", 72, -1],
      ["yarn_beta_slow", "f32", 76, -1],
      ["yarn_orig_ctx", "u32", 80, 0],
      ["defrag_thold", "f32", 84, -1],
      ["cb_eval", "pointer", 88, null],
      ["cb_eval_user_data", "pointer", 96, null],
      ["type_k", "i32", 104, 1],
      ["type_v", "i32", 108, 1],
      ["abort_callback", "pointer", 112, null],
      ["abort_callback_data", "pointer", 120, null],
      ["embeddings", "bool", 128, false],
      ["offload_kqv", "bool", 129, true],
      ["no_perf", "bool", 130, true],
      ["op_offload", "bool", 131, true],
      ["swa_full", "bool", 132, true],
      ["kv_unified", "bool", 133, false],
      ["samplers", "pointer", 136, null],
      ["n_samplers", "size", 144, 0],
      ["ctx_other", "pointer", 152, null],
    ],
  },
  batch: {
    size: 56,
    fields: [
      ["n_tokens", "i32", 0],
      ["token", "pointer", 8],
      ["embd", "pointer", 16],
      ["pos", "pointer", 24],
      ["n_seq_id", "pointer", 32],
      ["seq_id", "pointer", 40],
      ["logits", "pointer", 48],
    ],
  },
};

/**
 * Known releases. The structures change without notice from one to the next, and a wrong one is a crash
 * or, worse, a silent wrong number: a release that was not measured is refused. Both of these were, and agree.
 */
export const LAYOUTS: Readonly<Record<string, Layout>> = { "0.4.0": V0_4, "0.5.0": V0_4 };

/**
 * Compares what the library calls its defaults with what this release is known to have. A field that
 * moved, or was added or dropped before another, shows as a wrong value.
 *
 * @param struct name for messages
 * @throws EngineError naming the first field that differs
 */
export function checkDefaults(
  struct: string,
  layout: StructLayout,
  actual: Readonly<Record<string, FieldValue>>,
): void {
  for (const [name, , , preset] of layout.fields) {
    const found = actual[name];
    if (found !== preset) {
      throw new EngineError(
        "engine-layout",
        `llama.cpp's default ${struct} have ${name} = ${String(found)}, not ${String(preset)}: the library is not the release it claims to be.`,
        { advice: "Install the version of the package that lapidary's package.json names." },
      );
    }
  }
}
