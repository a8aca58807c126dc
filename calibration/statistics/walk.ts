import { StatisticsError } from "./errors.js";
import type { WalkOptions } from "./options.js";
import type { Replacement } from "./replacements.js";
import type { StepStatistics } from "./types.js";
import { Walker } from "./walker.js";

export type { WalkOptions, WalkProgress } from "./options.js";
export type { Replacement } from "./replacements.js";
export type { InputStatistics, Moments, StepStatistics } from "./types.js";

/** A step of the walk with its statistics. */
export interface LayerStep extends StepStatistics {
  /**
   * Gives weights of this step other values, by their names without the prefix, before the walk goes on: in the
   * sequential order the next steps read what the step gives with them. Names and sizes are checked as it goes on.
   *
   * @throws StatisticsError in the parallel order
   */
  replace(weights: ReadonlyMap<string, Replacement>): void;
}

/**
 * Runs text through a checkpoint step by step, the embeddings first, then each layer, and the norm before the output
 * matrix last, and gives what the matrices of each step read. Weights stay in the shards; of the model no more than
 * a layer is in memory, and of what matrices read nothing but its sums.
 *
 * @throws StatisticsError, EngineError with the runtime's own reason, OutputError for the scratch folder, and the
 *   signal's reason
 */
export async function* walkLayers(options: WalkOptions): AsyncGenerator<LayerStep, void> {
  checkOptions(options);
  const walker = await Walker.start(options);
  let whole = false;
  try {
    for (let index = walker.first; index < walker.steps; index++) {
      options.signal?.throwIfAborted();
      const statistics = await walker.look(index);
      const replaced = new Map<string, Replacement>();
      yield {
        ...statistics,
        replace(weights) {
          if (options.order === "parallel") {
            throw new StatisticsError(
              "wrong-order",
              "weights are replaced in the parallel order, expected the sequential one",
            );
          }
          for (const [name, values] of weights) replaced.set(name, values);
        },
      };
      await walker.leave(index, replaced);
    }
    whole = true;
  } finally {
    await walker.end(whole);
  }
}

function checkOptions({ order, cross = false, moments, replaced }: WalkOptions): void {
  if (order === "sequential") {
    if (!cross || moments !== null) return;
    throw new StatisticsError("no-moments", "moments between two models are asked for, but no moments");
  }
  if (cross || replaced !== undefined) {
    const what = cross ? "moments between two models" : "replaced weights";
    throw new StatisticsError(
      "wrong-order",
      `${what} are asked for in the parallel order, expected the sequential one`,
    );
  }
}
