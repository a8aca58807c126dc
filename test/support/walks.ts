import { mkdtemp, readdir } from "node:fs/promises";
import { join } from "node:path";
import {
  type InputStatistics,
  type LayerStep,
  type Moments,
  type WalkOptions,
  walkLayers,
} from "../../calibration/statistics/walk.js";
import { openCheckpoint } from "../../formats/safetensors/read.js";
import type { OnnxEngine } from "../../src/engines/onnx/types.js";
import { bindCheckpoint } from "../../src/gemma4/bind.js";
import { readConfig } from "../../src/gemma4/config.js";
import type { CheckpointParts } from "../../src/gemma4/graph/files.js";
import { scratchFolder } from "./convert.js";
import type { PlainStatistics, PlainSums } from "./statistics.js";

/** What a walk through a checkpoint of the tests needs to know of it. */
export async function partsOf(folder: string): Promise<CheckpointParts> {
  const config = await readConfig(folder);
  const checkpoint = await openCheckpoint(folder);
  const { weights } = bindCheckpoint(config, checkpoint);
  return { config, weights, shards: checkpoint.shards, placeholders: [8, 11, 13], padding: 0 };
}

/** Options of a walk with a scratch folder of its own. */
export async function walkOptions(
  engine: OnnxEngine,
  folder: string,
  windows: readonly Int32Array[],
): Promise<WalkOptions> {
  return {
    engine,
    checkpoint: await partsOf(folder),
    windows,
    threads: 1,
    order: "parallel",
    moments: null,
    scratch: await mkdtemp(join(scratchFolder(), "walk-")),
    stateMemory: 2 ** 30,
  };
}

/** All steps of a walk, which leaves nothing in its scratch folder. */
export async function walkThrough(options: WalkOptions): Promise<LayerStep[]> {
  const steps: LayerStep[] = [];
  for await (const step of walkLayers(options)) steps.push(step);
  const left = await readdir(options.scratch);
  if (left.length > 0) throw new Error(`The walk leaves ${left.join(", ")}.`);
  return steps;
}

export function inputOf(steps: readonly LayerStep[], name: string): InputStatistics {
  const found = steps.flatMap(({ statistics }) => statistics).find(({ input }) => input === name);
  if (found === undefined) throw new Error(`There is no input ${name}.`);
  return found;
}

/** The part of a full matrix that moments hold, in their order. */
export function momentsIn(full: ArrayLike<number>, { columns, blockWidth }: Moments): number[] {
  const values: number[] = [];
  for (let start = 0; start < columns; start += blockWidth) {
    const end = Math.min(start + blockWidth, columns);
    for (let row = start; row < end; row++) {
      for (let column = start; column < end; column++) values.push(full[row * columns + column]!);
    }
  }
  return values;
}

/** Numbers that should agree. */
export interface Comparison {
  readonly what: string;
  readonly found: ArrayLike<number>;
  readonly expected: ArrayLike<number>;
}

function compare(
  what: string,
  found: Pick<InputStatistics, "tokens" | "sum" | "sumSquares" | "moments">,
  expected: PlainSums,
): Comparison[] {
  const { moments } = found;
  return [
    { what: `${what}: tokens`, found: [found.tokens], expected: [expected.tokens] },
    { what: `${what}: sum`, found: found.sum, expected: expected.sum },
    { what: `${what}: squares`, found: found.sumSquares, expected: expected.sumSquares },
    ...(moments === null
      ? []
      : [
          {
            what: `${what}: moments`,
            found: moments.values,
            expected: momentsIn(expected.moments, moments),
          },
        ]),
  ];
}

/** Everything that a walk has found of a matrix, beside the same from a plain forward pass. */
export function compareAll(
  steps: readonly LayerStep[],
  expected: ReadonlyMap<string, PlainStatistics>,
): Comparison[] {
  return steps
    .flatMap(({ statistics }) => statistics)
    .flatMap((input) =>
      input.weights.flatMap((weight) => {
        const plain = expected.get(weight) ?? expected.get("embed_tokens.weight")!;
        const { experts, columns } = input;
        if (experts === null) return compare(weight, input, plain);
        const used = [...plain.experts].flatMap(([expert, sums]) => {
          const part = [expert * columns, (expert + 1) * columns] as const;
          const own = {
            tokens: experts.tokens[expert]!,
            sum: experts.sum.subarray(...part),
            sumSquares: experts.sumSquares.subarray(...part),
            moments: experts.moments?.[expert] ?? null,
          };
          return compare(`${weight} of expert ${expert}`, own, sums);
        });
        return [...compare(weight, input, plain), ...used];
      }),
    );
}

/** Σ x·yᵀ */
export function crossed(x: readonly Float64Array[], y: readonly Float64Array[]): Float64Array {
  const columns = x[0]!.length;
  const sum = new Float64Array(columns ** 2);
  for (const [row, values] of x.entries()) {
    const other = y[row]!;
    for (let i = 0; i < columns; i++) {
      for (let j = 0; j < columns; j++) sum[i * columns + j]! += values[i]! * other[j]!;
    }
  }
  return sum;
}
