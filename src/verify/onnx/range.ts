import type { OnnxEngine, TensorValue } from "../../engines/onnx/types.js";
import { type CheckpointRanges, encodeGraph } from "../../gemma4/graph/files.js";
import { RANGES } from "../../gemma4/graph/graphs.js";
import { VerifyError } from "../errors.js";
import { emptyCache, int64 } from "./values.js";

/** Largest magnitude that is let into halves, which end at 65,504: texts differ, by less than a factor of two. */
export const HALF_LIMIT = 32_000;

/** How large values get on some text. */
export interface ValueRange {
  /** Tokens that were run. */
  readonly tokens: number;
  /** Of the residual stream, which is never kept in halves. */
  readonly residual: number;
  /** Of the matrix products, which variants with halves compute in them. */
  readonly product: number;
  /** Name in the graph of the largest of these. */
  readonly largest: string;
}

export interface RangeOptions {
  readonly engine: OnnxEngine;
  readonly graphs: CheckpointRanges;
  readonly windows: readonly Int32Array[];
  readonly threads: number;
  readonly signal?: AbortSignal;
  readonly onWindow?: (done: number) => void;
}

/**
 * Runs text through a checkpoint in single precision and looks how large its values get. Weights stay in the shards, and
 * are widened one by one while they are used.
 *
 * @throws VerifyError `score-not-finite` when a value is no finite number
 */
export async function measureRange(options: RangeOptions): Promise<ValueRange> {
  const { engine, graphs, windows, threads, signal, onWindow } = options;
  const common = { folder: graphs.folder, threads, optimization: "none", prepack: false } as const;
  const embed = await engine.open({ ...common, model: await encodeGraph(graphs.embed), name: "embeddings" });
  const layers = await engine.open({ ...common, model: await encodeGraph(graphs.ranges), name: "layers" });
  const most = new Float64Array(graphs.observed.length);
  for (const [index, tokens] of windows.entries()) {
    signal?.throwIfAborted();
    const dims = [1, tokens.length];
    const ids = int64(tokens, dims);
    const embedded = await engine.run(embed.session, {
      feeds: { input_ids: ids },
      fetch: embed.outputs.map(({ name }) => name),
    });
    const given: Record<string, TensorValue> = {
      ...embedded,
      attention_mask: int64(
        Array.from(tokens, () => 1),
        dims,
      ),
      position_ids: int64(tokens.keys(), dims),
    };
    const feeds = Object.fromEntries(
      layers.inputs.map((input) => [input.name, given[input.name] ?? emptyCache(input)]),
    );
    const { [RANGES]: found } = await engine.run(layers.session, { feeds, fetch: [RANGES], transfer: true });
    for (const [place, { value }] of graphs.observed.entries()) {
      const size = Number(found?.data[place]);
      if (!Number.isFinite(size)) {
        throw new VerifyError(
          "score-not-finite",
          `In window ${index} of the text ${value} is not a finite number.`,
          {
            advice: "The checkpoint is damaged: fetch it anew.",
          },
        );
      }
      most[place] = Math.max(most[place]!, size);
    }
    onWindow?.(index + 1);
  }
  for (const { session } of [embed, layers]) await engine.close(session);
  return summary(graphs, most, windows);
}

function summary(
  { observed }: CheckpointRanges,
  most: Float64Array,
  windows: readonly Int32Array[],
): ValueRange {
  let [residual, product, largest] = [0, 0, ""];
  for (const [place, { kind, value }] of observed.entries()) {
    const size = most[place]!;
    if (kind === "residual") residual = Math.max(residual, size);
    else if (size > product) [product, largest] = [size, value];
  }
  return { tokens: windows.reduce((sum, { length }) => sum + length, 0), residual, product, largest };
}
