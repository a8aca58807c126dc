import { paddingToken, placeholderTokens } from "../gemma4/transformers-js.js";
import type { ValueRange } from "../verify/onnx/range.js";
import { PipelineError } from "./errors.js";
import { readConfigJson } from "./package-files.js";
import type { Reporter } from "./progress.js";
import type { CheckpointSource } from "./source.js";
import { textWindows } from "./text-windows.js";

/** Windows that show how large the values of a model get. */
const RANGE_WINDOWS = 8;

/**
 * Runs some text through the checkpoint, and refuses dtypes that would compute in halves what does not fit them.
 *
 * @throws PipelineError `fp16-overflow`; EngineError where ONNX Runtime is not there
 */
export async function checkRange(
  source: CheckpointSource,
  { threads, rangeText }: { readonly threads: number; readonly rangeText?: string | undefined },
  reporter: Reporter,
  signal: AbortSignal,
): Promise<ValueRange> {
  const { startOnnxEngine } = await import("../engines/onnx/engine.js");
  const { HALF_LIMIT, measureRange } = await import("../verify/onnx/range.js");
  const { checkpointRanges } = await import("../gemma4/graph/files.js");
  const json = await readConfigJson(source.folder);
  const { config, bound, checkpoint } = source;
  const engine = await startOnnxEngine();
  try {
    reporter.start("range of values");
    const windows = await rangeWindows(source, rangeText, threads);
    const graphs = await checkpointRanges({
      config,
      weights: bound.weights,
      shards: checkpoint.shards,
      placeholders: placeholderTokens(json),
      padding: paddingToken(json),
    });
    const range = await measureRange({
      engine,
      graphs,
      windows,
      threads,
      signal,
      onWindow: (done) => reporter.progress({ done, total: windows.length, unit: "windows" }),
    });
    const { product, residual, largest } = range;
    if (product <= HALF_LIMIT) {
      reporter.finish(
        `at most ${product.toPrecision(3)} in products, ${residual.toPrecision(3)} in the residual stream`,
      );
      return range;
    }
    throw new PipelineError(
      "fp16-overflow",
      `${source.folder}: ${largest} reaches ${Math.round(product)} on ${range.tokens} tokens of text, expected at most ${HALF_LIMIT} for halves, which end at 65504.`,
      {
        advice:
          "Choose fp32, q8, q4 or q2, which compute in single precision; --no-range-check writes it all the same.",
      },
    );
  } finally {
    await engine.close();
  }
}

/** Some windows of the evaluation set, or of the text given. */
function rangeWindows(
  source: CheckpointSource,
  text: string | undefined,
  threads: number,
): Promise<Int32Array[]> {
  return textWindows(source, { text, mode: "raw", context: 512, chunks: RANGE_WINDOWS, threads });
}
