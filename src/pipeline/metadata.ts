import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { planGguf } from "../../formats/gguf/plan.js";
import { outputFailure } from "../base/atomic-file.js";
import type { GgufEntry } from "../gemma4/gguf/entries.js";
import type { Gemma4Config, Weight } from "../gemma4/types.js";
import type { Metadata } from "../quantize/layout.js";

/** A folder with a model's config and tokenizer: a checkpoint, or a package that was made from one. */
export interface ModelFolder {
  readonly folder: string;
  readonly name: string;
  readonly config: Gemma4Config;
  /** Weights that count, from which the size label follows. */
  readonly weights: readonly Weight[];
}

/** Metadata of a folder's files; the file type is that of a plan, the rest is the same for all. */
export async function folderMetadata({
  folder,
  name,
  config,
  weights,
}: ModelFolder): Promise<(fileType: number) => GgufEntry[]> {
  const { readGeneration } = await import("../gemma4/generation.js");
  const { ggufMetadata } = await import("../gemma4/gguf/metadata.js");
  const { readModelCard } = await import("../gemma4/model-card.js");
  const { readTokenizer } = await import("../gemma4/tokenizer/tokenizer.js");
  const { readChatTemplates } = await import("../gemma4/chat-template.js");
  const shared = {
    config,
    generation: await readGeneration(folder),
    tokenizer: await readTokenizer(folder, config),
    chatTemplates: await readChatTemplates(folder),
    card: await readModelCard(folder),
    weights,
    folderName: name,
  };
  return (fileType) => ggufMetadata({ ...shared, fileType });
}

/** Hands over a file of metadata alone, which is enough to cut text into tokens. */
export async function withVocabulary<T>(metadata: Metadata, use: (path: string) => Promise<T>): Promise<T> {
  const folder = await mkdtemp(join(tmpdir(), "lapidary-")).catch((error: unknown) => {
    throw outputFailure(tmpdir(), error);
  });
  try {
    const path = join(folder, "vocabulary.gguf");
    for (const { header } of planGguf({ metadata, tensors: [] }).parts) await writeFile(path, header);
    return await use(path);
  } finally {
    await rm(folder, { recursive: true, force: true });
  }
}
