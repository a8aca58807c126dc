import { mkdtempSync, rmSync } from "node:fs";
import { readdir } from "node:fs/promises";
import { tmpdir } from "node:os";
import { basename, join } from "node:path";
import { afterAll } from "vitest";
import { openCheckpoint } from "../../formats/safetensors/read.js";
import { bindCheckpoint } from "../../src/gemma4/bind.js";
import { readChatTemplates } from "../../src/gemma4/chat-template.js";
import { readConfig } from "../../src/gemma4/config.js";
import { readGeneration } from "../../src/gemma4/generation.js";
import { ggufMetadata } from "../../src/gemma4/gguf/metadata.js";
import { readModelCard } from "../../src/gemma4/model-card.js";
import { readTokenizer } from "../../src/gemma4/tokenizer/tokenizer.js";
import { planCheckpoint } from "../../src/plan/checkpoint.js";
import type { Plan, PlanOptions } from "../../src/plan/plan.js";
import type { Metadata } from "../../src/quantize/layout.js";

/** Plan and metadata of a checkpoint's folder, everything kept. */
export async function prepare(
  folder: string,
  options: PlanOptions,
): Promise<{ plan: Plan; metadata: Metadata }> {
  const config = await readConfig(folder);
  const checkpoint = await openCheckpoint(folder);
  const { weights } = bindCheckpoint(config, checkpoint);
  const plan = planCheckpoint({
    config,
    weights,
    shards: checkpoint.shards,
    keepUnusedKv: true,
    ...options,
  });
  const metadata = ggufMetadata({
    config,
    generation: await readGeneration(folder),
    tokenizer: await readTokenizer(folder, config),
    chatTemplates: await readChatTemplates(folder),
    card: await readModelCard(folder),
    weights: weights.map(({ weight }) => weight),
    folderName: basename(folder),
    fileType: plan.fileType,
  });
  return { plan, metadata };
}

/** A folder that is removed after the tests of a file. */
export function scratch(): string {
  const folder = mkdtempSync(join(tmpdir(), "lapidary-quantize-"));
  afterAll(() => rmSync(folder, { recursive: true, force: true }));
  return folder;
}

export async function filesIn(folder: string): Promise<string[]> {
  return (await readdir(folder)).toSorted();
}
