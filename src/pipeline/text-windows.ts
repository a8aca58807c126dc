import { folderMetadata, withVocabulary } from "./metadata.js";
import type { CheckpointSource } from "./source.js";
import { measurableWindows, type MeasureOptions } from "./verify.js";

/**
 * Windows of a text in the tokens of a checkpoint; of the evaluation set where no text is given.
 *
 * @throws EngineError where llama.cpp's library, which tokenizes, is not there; TextError, PipelineError
 */
export async function textWindows(
  { folder, name, config, bound }: CheckpointSource,
  options: MeasureOptions,
): Promise<Int32Array[]> {
  const { startLlamaEngine } = await import("../engines/llama/engine.js");
  const weights = bound.weights.map(({ weight }) => weight);
  const metadata = await folderMetadata({ folder, name, config, weights });
  const llama = await startLlamaEngine();
  try {
    return await withVocabulary(metadata(0), async (vocabulary) => {
      const windows = await measurableWindows(llama, vocabulary, options);
      return windows.map(({ tokens }) => tokens);
    });
  } finally {
    await llama.close();
  }
}
