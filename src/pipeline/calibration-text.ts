import {
  type CalibrationOptions,
  type CalibrationText,
  calibrationText,
} from "../../calibration/text/calibration-text.js";
import { evaluationSet } from "../../calibration/text/evaluation.js";
import { resolveMode, type TextMode } from "../../calibration/text/modes.js";
import type { CalibrationSource } from "../../calibration/text/sources.js";
import { openGguf } from "../../formats/gguf/read.js";
import { PipelineError } from "./errors.js";
import { folderMetadata, withVocabulary } from "./metadata.js";
import { openSource } from "./source.js";
import { traits } from "./verify.js";

export interface CheckpointCalibrationOptions extends Pick<CalibrationOptions, "context" | "windows"> {
  readonly sources: readonly CalibrationSource[];
  /** `auto` when left out: chats for an instruction-tuned checkpoint. */
  readonly mode?: TextMode | undefined;
  /** File or folder that will be measured on; the evaluation set of the package when left out. */
  readonly evaluation?: string | undefined;
  readonly threads: number;
}

function concatenate(parts: readonly Int32Array[]): Int32Array {
  const whole = new Int32Array(parts.reduce((length, part) => length + part.length, 0));
  let at = 0;
  for (const part of parts) {
    whole.set(part, at);
    at += part.length;
  }
  return whole;
}

/**
 * Windows to calibrate a checkpoint on, cut by the very tokenizer that will run the model: llama.cpp's, from a
 * file with the checkpoint's vocabulary and no tensors.
 *
 * @throws TextError as `calibrationText`; PipelineError `no-source` when the path is no checkpoint folder
 */
export async function checkpointCalibration(
  checkpointFolder: string,
  { sources, context, windows, mode = "auto", evaluation, threads }: CheckpointCalibrationOptions,
): Promise<CalibrationText> {
  const source = await openSource(checkpointFolder);
  if (source.kind !== "checkpoint") {
    throw new PipelineError("no-source", `${checkpointFolder}: expected the folder of a checkpoint.`, {
      exitCode: 2,
    });
  }
  const weights = source.bound.weights.map(({ weight }) => weight);
  const metadata = await folderMetadata({ ...source, weights });
  const { startLlamaEngine } = await import("../engines/llama/engine.js");
  const engine = await startLlamaEngine();
  try {
    return await withVocabulary(metadata(0), async (path) => {
      const model = await traits(await openGguf(path), [source.name]);
      const vocabulary = await engine.load(path, { threads, context: context ?? 512, vocabularyOnly: true });
      const { addsBos, bos } = vocabulary.model;
      return calibrationText(sources, {
        context,
        windows,
        mode: resolveMode(mode, model.instructionTuned),
        bos: addsBos ? bos : null,
        bosText: model.bosText,
        render: model.render,
        tokenize: async (pieces) => {
          const parts: Int32Array[] = [];
          for (const { text, special } of pieces)
            parts.push(await engine.tokenize(vocabulary.handle, text, { special, bos: false }));
          return concatenate(parts);
        },
        evaluation: evaluation ?? evaluationSet(),
      });
    });
  } finally {
    await engine.close();
  }
}
