import type { GgufMetadata } from "../../formats/gguf/types.js";

/** `it`, `instruct` or `chat` as a word of its own: `gemma-4-31B-it`, `Gemma 4 E2B It`. */
const MARK = /(?:^|[-_ ])(?:it|instruct|chat)(?:[-_ .]|$)/i;

/**
 * Whether one of a model's names (folder, repository, finetune) marks it as instruction tuned. Such models
 * have no meaningful perplexity on raw text: they are compared by KL divergence.
 */
export function isInstructionTuned(names: Iterable<string | null | undefined>): boolean {
  for (const name of names) if (typeof name === "string" && MARK.test(name)) return true;
  return false;
}

/** Whether a GGUF file's metadata marks its model as instruction tuned. */
export function isInstructionTunedGguf(metadata: GgufMetadata): boolean {
  const names = ["general.finetune", "general.name", "general.basename"].map((key) => metadata.get(key));
  return isInstructionTuned(names.map((value) => (value?.type === "string" ? value.value : null)));
}
