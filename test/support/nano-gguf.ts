import { mkdtempSync, rmSync } from "node:fs";
import { open } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createGguf, planGguf } from "../../formats/gguf/write.js";
import { openCheckpoint } from "../../formats/safetensors/read.js";
import type { TensorEntry } from "../../formats/safetensors/types.js";
import { packageRoot } from "../../src/base/paths.js";
import { bindCheckpoint } from "../../src/gemma4/bind.js";
import { readChatTemplates } from "../../src/gemma4/chat-template.js";
import { readConfig } from "../../src/gemma4/config.js";
import { readGeneration } from "../../src/gemma4/generation.js";
import { ggufMetadata } from "../../src/gemma4/gguf/metadata.js";
import {
  CONVERTER_FILE_TYPES,
  convertedType,
  ggmlShape,
  ropeFrequencies,
} from "../../src/gemma4/gguf/tensors.js";
import { readModelCard } from "../../src/gemma4/model-card.js";
import { readTokenizer } from "../../src/gemma4/tokenizer/tokenizer.js";

const FOLDER = join(packageRoot, "fixtures", "nano-e");

/** BF16 is the upper half of F32. */
function widen(bytes: Uint8Array): Uint8Array {
  const wide = new Uint8Array(bytes.length * 2);
  for (let i = 0; i < bytes.length; i += 2) {
    wide[i * 2 + 2] = bytes[i]!;
    wide[i * 2 + 3] = bytes[i + 1]!;
  }
  return wide;
}

/**
 * nano-e as an unquantized GGUF file, written tensor by tensor without the rooms that convert: what runs
 * models is tested apart from what rounds them. The file goes away with the test process.
 */
export async function nanoGguf(type: "F32" | "BF16"): Promise<string> {
  const config = await readConfig(FOLDER);
  const checkpoint = await openCheckpoint(FOLDER);
  const { weights } = bindCheckpoint(config, checkpoint);
  const rope = ropeFrequencies(config);
  const layout = planGguf({
    metadata: ggufMetadata({
      config,
      generation: await readGeneration(FOLDER),
      tokenizer: await readTokenizer(FOLDER, config),
      chatTemplates: await readChatTemplates(FOLDER),
      card: await readModelCard(FOLDER),
      weights: weights.map(({ weight }) => weight),
      folderName: "nano-e",
      fileType: CONVERTER_FILE_TYPES[type],
    }),
    tensors: [
      rope,
      ...weights.map(({ weight }) => ({
        name: weight.gguf,
        type: convertedType(weight, type),
        ne: ggmlShape(weight.shape),
      })),
    ],
  });
  const folder = mkdtempSync(join(tmpdir(), "lapidary-nano-"));
  process.once("exit", () => rmSync(folder, { recursive: true, force: true }));
  const path = join(folder, `nano-e-${type}.gguf`);
  const output = await createGguf(path, layout);

  const source = await open(checkpoint.shards[0]!.path);
  const read = async ({ offset, byteLength }: TensorEntry): Promise<Uint8Array> => {
    const bytes = new Uint8Array(byteLength);
    await source.read(bytes, 0, byteLength, offset);
    return bytes;
  };
  await output.writeTensorRange(layout.tensors[0]!, 0, rope.data);
  for (const [index, { entry }] of weights.entries()) {
    const tensor = layout.tensors[index + 1]!;
    const bytes = await read(entry);
    await output.writeTensorRange(tensor, 0, tensor.type === "BF16" ? bytes : widen(bytes));
  }
  await source.close();
  await output.commit();
  return path;
}
