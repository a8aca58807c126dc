import type { Weight } from "../../src/gemma4/types.js";
import { type Curvature, curvatureOf } from "../statistics/curvature.js";
import { StatisticsError } from "../statistics/errors.js";
import type { StatisticsStore } from "../statistics/store.js";
import type { InputStatistics, StepStatistics } from "../statistics/types.js";
import { ablate, type AblateOptions } from "./ablate.js";
import { AllocationError } from "./errors.js";
import { type Part, partsToRound } from "./parts.js";
import { type InputMoments, Quadratic } from "./quadratic.js";
import { RowRounder } from "./round.js";
import { sampleRows } from "./sample.js";
import type { SensitivityFile } from "./sensitivity.js";
import { fits, type RoundedType, roundedType } from "./types.js";

/**
 * Values of a matrix that is rounded whole, with all of G; of larger ones so many are, in rows that stand for all. 2048
 * rows of 2048 columns; the rounding of these to a dozen types and the products take seconds.
 */
export const SAMPLE_VALUES = 2 ** 22;

/** The type whose cost is measured where it cannot be derived: every row has it, and the cost stands out from noise. */
const REFERENCE = roundedType("q4-32");

export interface MeasureOptions extends Pick<
  AblateOptions,
  "engine" | "checkpoint" | "threads" | "scratch" | "stateMemory" | "logitMemory" | "signal"
> {
  /** What the matrices read, from `walkLayers`. */
  readonly inputs: StatisticsStore;
  /** Gradients, from `walkBack`; null where there are none. */
  readonly curvature: StatisticsStore | null;
  readonly types: readonly RoundedType[];
  readonly file: SensitivityFile;
  /** For what is measured; asked for where something has to be. */
  readonly windows: () => Promise<readonly Int32Array[]>;
  /** Values of a matrix that are rounded at most. */
  readonly sampleValues?: number;
  /** Told of weights that are done. */
  readonly onProgress?: (done: number, total: number) => void;
}

/** Some rows of a weight with their share in a quadratic form. */
interface RowForm extends InputMoments {
  /** Of all rows of the weight. */
  readonly firstRow: number;
  /** [rows]: by what the energy of each row counts. */
  readonly rowWeights: Float64Array;
  /** The whole of G, where it is known. */
  readonly gradients: Curvature["gradients"];
}

interface RowOptions {
  readonly types: readonly RoundedType[];
  /** Of the columns, by row of the weight. */
  readonly importance: ((row: number) => Float32Array | undefined) | undefined;
  /** Values to round at most. */
  readonly values: number;
}

/**
 * Estimates what rounding each weight to each type costs and keeps it in the file, weight by weight: what is there already
 * is not done again.
 *
 * Where gradients are known it is ½ tr(G · E · H · Eᵀ), E being the errors of the search that files are written with. Of
 * matrices of more than `sampleValues` values some rows are rounded, those with the largest gradients and others evenly
 * spread, and of G the diagonal counts: the errors of two rows have little to do with each other. Of tables, which nothing
 * multiplies, and of weights without gradients the squares of the errors (times H, and how often a row is read) are
 * brought to nats by one measurement a group: of each table, and of each kind of matrix.
 *
 * @throws AllocationError, StatisticsError, EngineError, OutputError, and the signal's reason
 */
export async function measureSensitivity(options: MeasureOptions): Promise<void> {
  const rounder = await RowRounder.start(options.checkpoint);
  const quadratic = await Quadratic.start(options.engine, options.threads);
  try {
    await new Measurement(options, rounder, quadratic).run();
  } finally {
    await quadratic.close();
    await rounder.close();
  }
}

class Measurement {
  readonly #options: MeasureOptions;
  readonly #rounder: RowRounder;
  readonly #quadratic: Quadratic;
  readonly #parts: readonly Part[];

  constructor(options: MeasureOptions, rounder: RowRounder, quadratic: Quadratic) {
    this.#options = options;
    this.#rounder = rounder;
    this.#quadratic = quadratic;
    this.#parts = partsToRound(options.checkpoint.config, options.checkpoint.weights);
  }

  async run(): Promise<void> {
    const { curvature, inputs, onProgress } = this.#options;
    for (const store of [inputs, ...(curvature === null ? [] : [curvature])]) checkComplete(store);
    const left = new Map(
      this.#parts.filter((part) => this.#missing(part).length > 0).map((part) => [part.weight.name, part]),
    );
    const total = this.#parts.length;
    const tell = (): void => onProgress?.(total - left.size, total);
    tell();
    // Rows of the projection of per-layer embeddings are spread over the steps of all layers.
    const spread = new Map<string, RowForm[]>();
    for (let index = 0; index < (curvature?.done.length ?? 0); index++) {
      const step = await curvature!.read(index);
      const importance = await this.#importanceStep(index);
      for (const part of left.values()) {
        const form = gradientForm(step, part.weight);
        if (form === undefined) continue;
        if (part.weight.layer === null && part.kind === "matrix") {
          spread.set(part.weight.name, [...(spread.get(part.weight.name) ?? []), form]);
          continue;
        }
        await this.#estimate(part, [form], null, importanceOf(importance, part.weight));
        left.delete(part.weight.name);
        tell();
      }
    }
    for (let index = 0; index < inputs.done.length; index++) {
      const step = await inputs.read(index);
      for (const part of left.values()) {
        const { weight } = part;
        const forms = spread.get(weight.name);
        const importance = importanceOf([step], weight);
        if (forms !== undefined && importance === undefined) continue;
        const own = forms ?? inputForms(step, part);
        if (own === undefined) continue;
        await this.#estimate(part, own, forms === undefined ? groupOf(part) : null, importance);
        left.delete(weight.name);
        tell();
      }
    }
    const [lost] = left.values();
    if (lost !== undefined) {
      throw new AllocationError(
        "no-statistics",
        `${inputs.folder}: nothing is known of what ${lost.weight.name} reads.`,
        { exitCode: 2, advice: "Calibrate with the whole checkpoint." },
      );
    }
    await this.#measureGroups();
  }

  /** Types of a part that the file does not have; of grouped ones the reference too. */
  #missing({ weight, onnxOnly }: Part, group = this.#options.file.groupOf(weight.name)): RoundedType[] {
    const { types, file } = this.#options;
    const wanted = types.filter(
      (type) => fits(type, weight.shape.at(-1)!) && !(onnxOnly && type.format === "gguf"),
    );
    if (typeof group === "string") wanted.push(REFERENCE);
    const names = new Map(wanted.map((type) => [type.name, type]));
    return [...names.values()].filter(({ name }) => !file.has(weight.name, name));
  }

  /** The step of the inputs that has the importance for a step of the way back: 0 is the head there, then the last layer. */
  async #importanceStep(index: number): Promise<StepStatistics[]> {
    const { inputs, checkpoint } = this.#options;
    const place = checkpoint.config.layers.length + 1 - index;
    return place < inputs.done.length ? [await inputs.read(place)] : [];
  }

  async #estimate(
    part: Part,
    forms: readonly RowForm[],
    group: string | null,
    importance: ((row: number) => Float32Array | undefined) | undefined,
  ): Promise<void> {
    const { file, signal } = this.#options;
    const { name } = part.weight;
    const types = this.#missing(part, group);
    const losses = new Map(types.map((type) => [type.name, 0]));
    for (const form of forms) {
      const values = Math.floor((this.#options.sampleValues ?? SAMPLE_VALUES) / forms.length);
      for (const [type, loss] of await this.#lossesOf(part.weight, form, { types, importance, values })) {
        losses.set(type, losses.get(type)! + loss);
      }
      signal?.throwIfAborted();
    }
    await file.add(name, group, Object.fromEntries(losses));
  }

  async #lossesOf(
    weight: Weight,
    form: RowForm,
    { types, importance, values: most }: RowOptions,
  ): Promise<[string, number][]> {
    const row = weight.shape.at(-1)!;
    const { rows, factors } = sampleRows(form.rowWeights, Math.max(1, Math.floor(most / row)));
    const original = new Float32Array(rows.length * row);
    for (const { at, first, count } of runsOf(rows, RowRounder.chunkRows(row))) {
      original.set(await this.#rounder.read(weight, form.firstRow + first, count), at * row);
    }
    const { gradients, inputs } = form;
    const whole = rows.length === form.rowWeights.length && gradients !== null && inputs !== null;
    const losses: [string, number][] = [];
    for (const type of types) {
      const error = new Float32Array(original.length);
      for (const { at, first, count } of runsOf(rows, RowRounder.chunkRows(row))) {
        const values = original.subarray(at * row, (at + count) * row);
        const own = importance?.(form.firstRow + first);
        const rounded = this.#rounder.round(values, type, { row, importance: own, name: weight.name });
        for (const [index, value] of rounded.entries()) error[at * row + index] = values[index]! - value;
      }
      if (whole) {
        losses.push([type.name, Math.max(0, (await this.#quadratic.whole(error, gradients, inputs)) / 2)]);
        continue;
      }
      const energies = await this.#quadratic.rows(error, form);
      const sum = energies.reduce((total, energy, index) => total + Math.max(0, energy) * factors[index]!, 0);
      losses.push([type.name, sum / 2]);
    }
    return losses;
  }

  /** Measures what the groups cost at the reference type. */
  async #measureGroups(): Promise<void> {
    const { file, windows: asked, checkpoint } = this.#options;
    const groups = new Map<string, Part[]>();
    for (const part of this.#parts) {
      const group = file.groupOf(part.weight.name);
      if (typeof group !== "string" || file.scaleOf(group) !== undefined) continue;
      groups.set(group, [...(groups.get(group) ?? []), part]);
    }
    if (groups.size === 0) return;
    const windows = await asked();
    const weights = new Map(this.#parts.map(({ weight, kind }) => [weight.name, { weight, kind }]));
    const used = [...new Set(windows.flatMap((window) => [...window]))];
    const tableRows = [...new Set([...used, checkpoint.padding])].toSorted((a, b) => a - b);
    const found = await ablate({
      ...this.#options,
      windows,
      onProgress: () => {},
      variants: [...groups].map(([name, parts]) => ({
        name,
        weights: parts.map(({ weight }) => weight.name),
      })),
      write: async (path, name) => {
        const { weight, kind } = weights.get(name)!;
        const rows = kind === "table" ? tableRows : undefined;
        await this.#rounder.write(path, weight, REFERENCE, { rows });
      },
    });
    for (const { variant, kld } of found) {
      const energy = variant.weights.reduce((sum, name) => sum + file.raw(name, REFERENCE.name)!, 0);
      await file.scale(variant.name, energy > 0 ? kld / energy : 0);
    }
  }
}

function checkComplete({ folder, done, header, complete }: StatisticsStore): void {
  if (complete) return;
  throw new AllocationError(
    "statistics-incomplete",
    `${folder}: ${done.length} of ${header.steps} steps are done, expected all of them.`,
    { exitCode: 2, advice: "Run the calibration again: it goes on where it stopped." },
  );
}

/** Runs of neighbouring rows, where each lies among those chosen. */
function runsOf(rows: readonly number[], most: number): { at: number; first: number; count: number }[] {
  const runs: { at: number; first: number; count: number }[] = [];
  for (const [at, row] of rows.entries()) {
    const last = runs.at(-1);
    if (last !== undefined && row === last.first + last.count && last.count < most) last.count++;
    else runs.push({ at, first: row, count: 1 });
  }
  return runs;
}

function gradientForm(step: StepStatistics, weight: Weight): RowForm | undefined {
  let found: Curvature | undefined;
  try {
    found = curvatureOf(step, weight.name);
  } catch (error) {
    // What nothing depends on in this text is measured like what has no gradients.
    if (!(error instanceof StatisticsError) || error.code !== "no-gradients") throw error;
  }
  if (found === undefined) return undefined;
  const firstRow = Number.isNaN(found.firstRow) ? 0 : found.firstRow;
  return { ...found, firstRow, rowWeights: found.gradientSquares };
}

/** What is measured together where there are no gradients. */
function groupOf({ weight, kind }: Part): string {
  return kind === "matrix" ? weight.role : weight.name;
}

/** How much the rows of a weight count by what a step of the inputs says; undefined where it says nothing. */
function inputForms(step: StepStatistics, { weight, kind }: Part): RowForm[] | undefined {
  const columns = weight.shape.at(-1)!;
  if (kind === "table") {
    const found = step.frequencies.find((each) => each.weight === weight.name);
    const tokens = found?.counts.reduce((sum, count) => sum + count, 0) ?? 0;
    if (found === undefined || tokens === 0) return undefined;
    return [
      {
        firstRow: 0,
        rowWeights: found.counts.map((count) => count / tokens),
        gradients: null,
        inputs: null,
        inputSquares: new Float64Array(columns).fill(1),
      },
    ];
  }
  const found = step.statistics.find(({ weights }) => weights.includes(weight.name));
  if (found === undefined || found.tokens === 0) return undefined;
  const rows = weight.shape.at(-2)!;
  if (weight.shape.length === 3) return expertForms(found, rows);
  const { moments, sumSquares, tokens } = found;
  return [
    {
      firstRow: 0,
      rowWeights: new Float64Array(rows).fill(1),
      gradients: null,
      inputs: moments && { ...moments, values: moments.values.map((value) => value / moments.tokens) },
      inputSquares: sumSquares.map((value) => value / tokens),
    },
  ];
}

/** One an expert, by how many rows it gets. */
function expertForms({ experts, columns, tokens }: InputStatistics, rows: number): RowForm[] | undefined {
  return experts === null
    ? undefined
    : Array.from(experts.tokens, (_own, expert) => ({
        firstRow: expert * rows,
        rowWeights: new Float64Array(rows).fill(1 / tokens),
        gradients: null,
        inputs: null,
        inputSquares: experts.sumSquares.slice(expert * columns, (expert + 1) * columns),
      }));
}

/**
 * Importance of the columns by the row of a weight: their mean square. Experts that no token chose have that of all.
 * Tables have none, nor has the output matrix, which is the table in most models.
 */
function importanceOf(
  steps: readonly StepStatistics[],
  weight: Weight,
): ((row: number) => Float32Array | undefined) | undefined {
  if (weight.role === "head") return undefined;
  const found = steps
    .flatMap(({ statistics }) => statistics)
    .find(({ weights }) => weights.includes(weight.name));
  if (found === undefined) return undefined;
  const { sumSquares, tokens, experts, columns } = found;
  const all = Float32Array.from(sumSquares, (value) => value / tokens);
  if (experts === null) return () => all;
  const rows = weight.shape.at(-2)!;
  return (row) => {
    const expert = Math.floor(row / rows);
    const own = experts.tokens[expert]!;
    if (own === 0) return all;
    const squares = experts.sumSquares.subarray(expert * columns, (expert + 1) * columns);
    return Float32Array.from(squares, (value) => value / own);
  };
}
