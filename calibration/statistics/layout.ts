import { mirror, momentValues } from "./moments.js";
import type { InputRecord, StepRecord } from "./schema.js";
import type {
  ExpertStatistics,
  InputStatistics,
  Moments,
  StepStatistics,
  TokenFrequencies,
} from "./types.js";

/*
 * The file of a step, little-endian: first all doubles, then all floats.
 *
 * Doubles: of each input its sums, then its sums of squares, [columns] each, and of experts their rows [experts], sums
 * and sums of squares [experts, columns]; then the frequencies. Floats: of each input its moments, those between two
 * models, and those of its experts. Of what is symmetric only the rows of each block up to the diagonal are written.
 */

/** Values of the file of a step. */
export interface StepSizes {
  readonly doubles: number;
  readonly floats: number;
}

/** Widths of the blocks on the diagonal. */
function blocksOf(columns: number, blockWidth: number): number[] {
  const whole = Math.floor(columns / blockWidth);
  const rest = columns - whole * blockWidth;
  return [...Array.from({ length: whole }, () => blockWidth), ...(rest === 0 ? [] : [rest])];
}

function triangleValues(columns: number, blockWidth: number): number {
  return blocksOf(columns, blockWidth).reduce((sum, width) => sum + (width * (width + 1)) / 2, 0);
}

/** How many values the record of a step promises. */
export function stepSizes({ inputs, frequencies }: Pick<StepRecord, "inputs" | "frequencies">): StepSizes {
  let [doubles, floats] = [0, 0];
  for (const { columns, moments, cross, experts } of inputs) {
    doubles += 2 * columns + (experts === null ? 0 : experts.count * (1 + 2 * columns));
    if (moments !== null) floats += triangleValues(columns, moments.blockWidth);
    if (cross !== null) floats += momentValues({ columns, blockWidth: cross.blockWidth });
    if (experts?.moments != null) {
      floats += experts.count * triangleValues(columns, experts.moments.blockWidth);
    }
  }
  for (const { rows } of frequencies) doubles += rows;
  return { doubles, floats };
}

/** The record of a step. */
export function recordOf({ index, kind, layer, statistics, frequencies }: StepStatistics): StepRecord {
  return {
    index,
    kind,
    layer,
    inputs: statistics.map((each) => inputRecord(each)),
    frequencies: frequencies.map(({ weight, counts }) => ({ weight, rows: counts.length })),
  };
}

function inputRecord(statistics: InputStatistics): InputRecord {
  const { input, weights, columns, tokens, moments, cross, experts } = statistics;
  const own = experts?.moments ?? null;
  return {
    input,
    weights: [...weights],
    columns,
    tokens,
    moments: shortOf(moments),
    cross: shortOf(cross),
    experts: experts && {
      count: experts.tokens.length,
      moments: own && {
        blockWidth: own[0]!.blockWidth,
        tokens: own.map((each) => each.tokens),
      },
    },
  };
}

function shortOf(moments: Moments | null): InputRecord["moments"] {
  return moments && { blockWidth: moments.blockWidth, tokens: moments.tokens };
}

/** Arrays of the file of a step, one after the other; a large one is made when it is its turn. */
export function* stepArrays({
  statistics,
  frequencies,
}: StepStatistics): Generator<Float64Array | Float32Array> {
  for (const { sum, sumSquares, experts } of statistics) {
    yield* [sum, sumSquares];
    if (experts !== null) yield* [experts.tokens, experts.sum, experts.sumSquares];
  }
  for (const { counts } of frequencies) yield counts;
  for (const { moments, cross, experts } of statistics) {
    if (moments !== null) yield packed(moments);
    if (cross !== null) yield cross.values;
    for (const each of experts?.moments ?? []) yield packed(each);
  }
}

/** The rows of each block up to the diagonal. */
function packed({ columns, blockWidth, values }: Moments): Float32Array {
  const result = new Float32Array(triangleValues(columns, blockWidth));
  let [at, start] = [0, 0];
  for (const width of blocksOf(columns, blockWidth)) {
    for (let row = 0; row < width; row++) {
      const from = start + row * width;
      result.set(values.subarray(from, from + row + 1), at);
      at += row + 1;
    }
    start += width ** 2;
  }
  return result;
}

/** Gives the next values of a file. */
export interface Arrays {
  doubles(count: number): Promise<Float64Array>;
  floats(count: number): Promise<Float32Array>;
}

/** Statistics of a step from its record and its file. */
export async function readStep(record: StepRecord, arrays: Arrays): Promise<StepStatistics> {
  const sums: {
    sum: Float64Array;
    sumSquares: Float64Array;
    experts: Omit<ExpertStatistics, "moments"> | null;
  }[] = [];
  for (const { columns, experts } of record.inputs) {
    const [sum, sumSquares] = [await arrays.doubles(columns), await arrays.doubles(columns)];
    const count = experts?.count ?? 0;
    const own = experts && {
      tokens: await arrays.doubles(count),
      sum: await arrays.doubles(count * columns),
      sumSquares: await arrays.doubles(count * columns),
    };
    sums.push({ sum, sumSquares, experts: own });
  }
  const frequencies: TokenFrequencies[] = [];
  for (const { weight, rows } of record.frequencies) {
    frequencies.push({ weight, counts: await arrays.doubles(rows) });
  }
  const statistics: InputStatistics[] = [];
  for (const [
    place,
    { input, weights, columns, tokens, moments, cross, experts },
  ] of record.inputs.entries()) {
    const { sum, sumSquares, experts: own } = sums[place]!;
    statistics.push({
      input,
      weights,
      columns,
      tokens,
      sum,
      sumSquares,
      moments: moments && (await unpacked(columns, moments, arrays)),
      cross: cross && {
        columns,
        ...cross,
        values: await arrays.floats(momentValues({ columns, blockWidth: cross.blockWidth })),
      },
      experts: own && { ...own, moments: await expertMoments(columns, experts, arrays) },
    });
  }
  const { index, kind, layer } = record;
  return { index, kind, layer, statistics, frequencies };
}

async function expertMoments(
  columns: number,
  experts: InputRecord["experts"],
  arrays: Arrays,
): Promise<Moments[] | null> {
  if (experts?.moments == null) return null;
  const { blockWidth, tokens } = experts.moments;
  const all: Moments[] = [];
  for (const each of tokens) all.push(await unpacked(columns, { blockWidth, tokens: each }, arrays));
  return all;
}

async function unpacked(
  columns: number,
  { blockWidth, tokens }: { readonly blockWidth: number; readonly tokens: number },
  arrays: Arrays,
): Promise<Moments> {
  const triangles = await arrays.floats(triangleValues(columns, blockWidth));
  const values = new Float32Array(momentValues({ columns, blockWidth }));
  let [at, start] = [0, 0];
  for (const width of blocksOf(columns, blockWidth)) {
    const block = values.subarray(start, start + width ** 2);
    for (let row = 0; row < width; row++) {
      block.set(triangles.subarray(at, at + row + 1), row * width);
      at += row + 1;
    }
    mirror(block, width);
    start += width ** 2;
  }
  return { columns, blockWidth, values, tokens };
}
