import { stat } from "node:fs/promises";
import { basename } from "node:path";
import { randomAllocation } from "../../calibration/allocation/control.js";
import { type Part, partsToRound } from "../../calibration/allocation/parts.js";
import type { SensitivityFile } from "../../calibration/allocation/sensitivity.js";
import { type Allocation, type Item, leastBytes, leastLoss } from "../../calibration/allocation/solve.js";
import { roundedType } from "../../calibration/allocation/types.js";
import { checkOutput } from "../base/atomic-file.js";
import { LapidaryError } from "../base/errors.js";
import { planCheckpoint } from "../plan/checkpoint.js";
import { MIXES } from "../plan/mixes.js";
import { DTYPES, type DtypeName, groupOf } from "../plan/onnx/dtypes.js";
import { itemsOf } from "./allocation-items.js";
import { openCalibrated, openCheckpointFolder } from "./calibrated.js";
import { statisticsFolders } from "./statistics-folders.js";
import { PipelineError } from "./errors.js";
import { type OpenPlan, planName, writePlan } from "./plan-file.js";
import type { PlanFile, PlanLine } from "./plan-schema.js";
import { silent } from "./progress.js";
import { openSensitivity, typesOf } from "./sensitivity.js";
import type { CheckpointSource } from "./source.js";

/** Allocations by chance that the result is compared with. */
const CONTROLS = 20;

/** Tries to meet a budget to the byte: graphs of other types are a little larger or smaller themselves. */
const MOST_TRIES = 8;

type Format = "gguf" | "onnx";

export interface AllocateRequest {
  /** Folder of a checkpoint. */
  readonly source: string;
  /** Folder of its statistics, with what `measure` has left there. */
  readonly statistics: string;
  /** One of them. */
  readonly budget: { readonly bytes: number } | { readonly bitsPerWeight: number } | { readonly kld: number };
  /** Names of types to choose among; the usual ones when left out. */
  readonly types: readonly string[] | undefined;
  /** Formats, each of which gets a column of the plan. */
  readonly formats: readonly Format[];
  /** File of the plan. */
  readonly output: string;
  readonly force: boolean;
}

/** A mix of llama-quantize or a dtype beside the allocation. */
interface Compared {
  readonly name: string;
  readonly bytes: number;
  readonly kld: number;
}

/** One format of a plan. */
interface Column {
  readonly format: Format;
  readonly origin: "allocation" | "mix";
  /** Mix that the file is marked as, or the dtype; where the origin is a mix, that one. */
  readonly name: string;
  /** Of all files, to the byte. */
  readonly bytes: number;
  readonly bitsPerWeight: number;
  readonly kld: number;
  /** Most bytes first. */
  readonly shares: readonly {
    readonly type: string;
    readonly weights: number;
    readonly bytes: number;
    readonly kld: number;
  }[];
  /** In order of size. */
  readonly compared: readonly Compared[];
  /** Allocations by chance of the same bytes: the mean of what they cost, and the least. */
  readonly control: { readonly mean: number; readonly least: number };
  readonly weights: readonly {
    readonly name: string;
    readonly type: string;
    readonly bytes: number;
    readonly kld: number;
  }[];
}

/** What `plan --json` prints. */
export interface AllocationReport {
  readonly output: string;
  readonly columns: readonly Column[];
}

/** What an allocation is made of. */
interface Work {
  readonly source: CheckpointSource;
  readonly parts: readonly Part[];
  readonly file: SensitivityFile;
  readonly head: Pick<PlanFile, "checkpoint" | "statistics">;
  readonly request: AllocateRequest;
  readonly signal: AbortSignal;
}

/**
 * Chooses a type for every weight so that the files of each format fit a budget and the estimated KL divergence is the
 * least, or that it stays below a bound in the fewest bytes, and writes the plan. Where a mix of llama-quantize, or a
 * dtype, fits the same bytes and costs less, it is kept.
 *
 * @throws LapidaryError of any room; the signal's reason after an abort
 */
export async function allocate(request: AllocateRequest, signal: AbortSignal): Promise<AllocationReport> {
  await checkOutput(request.output, request.force);
  const types = typesOf(request.types);
  const source = await openCheckpointFolder(request.source);
  const calibrated = await openCalibrated(request.statistics, source);
  const { checkpoint, text } = calibrated.inputs.header;
  const work: Work = {
    source,
    parts: partsToRound(source.config, source.bound.weights),
    file: await openSensitivity(calibrated),
    head: {
      checkpoint: checkpoint.map(({ file, sha256 }) => ({ file, sha256 })),
      statistics: { text: text.sha256, windows: text.windows, tokens: text.tokens },
    },
    request,
    signal,
  };
  const columns: Column[] = [];
  for (const format of request.formats) {
    columns.push(await columnOf(work, format, itemsOf(work.parts, work.file, types, format)));
  }
  await writePlan(request.output, planOf(work, columns));
  return { output: request.output, columns };
}

async function columnOf(work: Work, format: Format, items: readonly Item[]): Promise<Column> {
  const { budget } = work.request;
  const smallest = leastLoss(
    items,
    items.reduce((sum, { choices }) => sum + Math.min(...choices.map(({ bytes }) => bytes)), 0),
  );
  const least = await sizeOf(work, format, smallest.choices);
  const fixed = least.bytes - smallest.bytes;
  const solved =
    "kld" in budget
      ? await measured(work, format, leastBytes(items, budget.kld))
      : await within(work, format, { items, fixed, budget: bytesOf(budget, least.values) });
  const { allocation, size } = solved;
  const compared = comparedWith(work, format, fixed);
  const rival = compared
    .filter(({ bytes, kld }) => {
      const fits =
        "kld" in budget ? kld <= budget.kld && bytes < size.bytes : bytes <= bytesOf(budget, size.values);
      return fits && kld < ("kld" in budget ? Infinity : allocation.loss);
    })
    .toSorted((a, b) => ("kld" in budget ? a.bytes - b.bytes : a.kld - b.kld))[0];
  const kept = rival?.choices ?? allocation.choices;
  const keptSize = rival === undefined ? size : await sizeOf(work, format, kept);
  const controls = Array.from(
    { length: CONTROLS },
    (_, seed) => randomAllocation(items, allocation.bytes, seed).loss,
  );
  return {
    format,
    origin: rival === undefined ? "allocation" : "mix",
    name: rival?.name ?? markOf(kept),
    bytes: keptSize.bytes,
    bitsPerWeight: (keptSize.bytes * 8) / keptSize.values,
    kld: rival?.kld ?? allocation.loss,
    shares: sharesOf(kept),
    compared: compared.map(({ name, bytes, kld }) => ({ name, bytes, kld })),
    control: {
      mean: controls.reduce((sum, loss) => sum + loss, 0) / CONTROLS,
      least: Math.min(...controls),
    },
    weights: [...kept].map(([name, { type, bytes, loss }]) => ({ name, type, bytes, kld: loss })),
  };
}

type Choices = Allocation["choices"];

interface Size {
  readonly bytes: number;
  /** Values of all weights of the files. */
  readonly values: number;
}

function bytesOf(
  budget: Exclude<AllocateRequest["budget"], { readonly kld: number }>,
  values: number,
): number {
  return "bytes" in budget ? budget.bytes : Math.floor((budget.bitsPerWeight * values) / 8);
}

async function measured(work: Work, format: Format, allocation: Allocation) {
  return { allocation, size: await sizeOf(work, format, allocation.choices) };
}

/** An allocation whose files, planned to the byte, fit the budget. */
async function within(
  work: Work,
  format: Format,
  {
    items,
    fixed,
    budget,
  }: { readonly items: readonly Item[]; readonly fixed: number; readonly budget: number },
) {
  let room = budget - fixed;
  for (let tries = 0; tries < MOST_TRIES; tries++) {
    let allocation: Allocation;
    try {
      allocation = leastLoss(items, room);
    } catch (error) {
      if (!(error instanceof LapidaryError) || error.code !== "budget-too-small") throw error;
      const smallest = items.reduce(
        (sum, { choices }) => sum + Math.min(...choices.map(({ bytes }) => bytes)),
        0,
      );
      throw new PipelineError(
        "budget-too-small",
        `${format}: files of ${budget} bytes are too small: with the smallest of the types they take ${smallest + fixed}, of which ${fixed} are for what is not rounded.`,
        { exitCode: 2, cause: error, advice: `Allow ${smallest + fixed} bytes, or smaller types.` },
      );
    }
    const size = await sizeOf(work, format, allocation.choices);
    if (size.bytes <= budget) return { allocation, size };
    room = allocation.bytes - (size.bytes - budget);
  }
  throw new PipelineError("budget-not-met", `${format}: no allocation of ${budget} bytes was found.`, {
    advice: "Allow a few bytes more.",
  });
}

/** Plans the files of an allocation to the byte; nothing is written. */
async function sizeOf(work: Work, format: Format, choices: Choices): Promise<Size> {
  const { source, request, signal } = work;
  const name = markOf(choices);
  const plan: OpenPlan = {
    path: request.output,
    plan: {
      plan: 1,
      [format]: format === "gguf" ? { mix: name } : { dtype: name },
      weights: linesOf(choices),
    },
  };
  // Some types are refused without one.
  const { imatrix } = statisticsFolders(request.statistics);
  const found = await stat(imatrix).catch(() => undefined);
  const common = {
    source: source.folder,
    plan,
    ...(found === undefined ? {} : { imatrix }),
    threads: 1,
    memory: 2 ** 28,
    dryRun: true,
    force: true,
  };
  if (format === "gguf") {
    const { convert } = await import("./convert.js");
    const options = { matchConverter: false, keepUnusedKv: false, splitMaxBytes: undefined };
    const out = `${basename(request.output)}.gguf`;
    const [artifact] = await convert(
      { ...common, ...options, types: [name], name: planName(plan), out },
      silent,
      signal,
    );
    return { bytes: artifact!.bytes, values: (artifact!.bytes * 8) / artifact!.bitsPerWeight };
  }
  const { exportOnnx } = await import("./export.js");
  const { graphs } = await exportOnnx(
    { ...common, dtypes: [name], layout: "transformers.js", out: request.output },
    silent,
    signal,
  );
  return {
    bytes: graphs.reduce((sum, { bytes }) => sum + bytes, 0),
    values: graphs.reduce((sum, { values }) => sum + values, 0),
  };
}

/** The mix whose own type, or the dtype whose bits, most bytes have. */
function markOf(choices: Choices): string {
  const [most] = sharesOf(choices);
  const type = roundedType(most!.type);
  if (type.format === "onnx") return `q${type.codes.bits}`;
  const own = MIXES.find(({ type: each }) => each === type.block)?.name;
  return own ?? "Q4_K_M";
}

function linesOf(choices: Choices): Record<string, PlanLine> {
  return Object.fromEntries([...choices].map(([name, { type }]) => [name, lineOf(type)]));
}

function lineOf(type: string): PlanLine {
  const rounded = roundedType(type);
  if (rounded.format === "gguf") return { gguf: { type: rounded.block } };
  const { bits, block, zeroPoints } = rounded.codes;
  return { onnx: { bits, block: block as 32, zeroPoint: zeroPoints } };
}

function sharesOf(choices: Choices): Column["shares"] {
  const shares = new Map<string, Column["shares"][number]>();
  for (const { type, bytes, loss } of choices.values()) {
    const before = shares.get(type) ?? { type, weights: 0, bytes: 0, kld: 0 };
    shares.set(type, {
      type,
      weights: before.weights + 1,
      bytes: before.bytes + bytes,
      kld: before.kld + loss,
    });
  }
  return [...shares.values()].toSorted((a, b) => b.bytes - a.bytes || (a.type < b.type ? -1 : 1));
}

/** Mixes or dtypes all of whose types were measured. */
function comparedWith(
  work: Work,
  format: Format,
  fixed: number,
): (Compared & { readonly choices: Choices })[] {
  // Dtypes that compute in halves have the same matrices.
  const dtypes = Object.keys(DTYPES).filter((name) => !name.endsWith("f16"));
  const names = format === "gguf" ? MIXES.map(({ name }) => name) : dtypes;
  return names
    .flatMap((name) => {
      const types = format === "gguf" ? mixTypes(work, name) : dtypeTypes(work, name as DtypeName);
      const choices = types && choicesOf(work, format, types);
      if (choices === undefined) return [];
      const all = [...choices.values()];
      const bytes = fixed + all.reduce((sum, each) => sum + each.bytes, 0);
      return [{ name, bytes, kld: all.reduce((sum, { loss }) => sum + loss, 0), choices }];
    })
    .toSorted((a, b) => a.bytes - b.bytes || a.kld - b.kld);
}

/** By weight, the types of a mix; undefined for one that cannot be written without an importance matrix. */
function mixTypes({ source, parts }: Work, mix: string): Map<string, string> | undefined {
  const { config, bound, checkpoint } = source;
  try {
    const plan = planCheckpoint({ mix, config, weights: bound.weights, shards: checkpoint.shards });
    const types = new Map(plan.tensors.map(({ name, type }) => [name, type]));
    const own = parts.filter(({ stored, onnxOnly }) => stored && !onnxOnly);
    return new Map(own.map(({ weight }) => [weight.name, types.get(weight.gguf)!]));
  } catch (error) {
    if (error instanceof LapidaryError) return undefined;
    throw error;
  }
}

/** By weight, the types of a dtype in blocks of 32. */
function dtypeTypes({ parts }: Work, dtype: DtypeName): Map<string, string> {
  const { forms } = DTYPES[dtype];
  return new Map(
    parts.map(({ weight: { name, role } }) => {
      const group = groupOf(role);
      return [name, group === "exact" ? "fp32" : `${forms[group]}-32`];
    }),
  );
}

/** Undefined where a type was not measured. */
function choicesOf(
  { parts, file }: Work,
  format: Format,
  types: ReadonlyMap<string, string>,
): Choices | undefined {
  try {
    const names = [...new Set(types.values())];
    const items = itemsOf(
      parts,
      file,
      names.map((name) => roundedType(name)),
      format,
    );
    const choices = items.map(({ name, choices }) => {
      const type = types.get(name);
      return [name, choices.find((choice) => choice.type === type)] as const;
    });
    if (choices.some(([, choice]) => choice === undefined)) return undefined;
    return new Map(choices as [string, NonNullable<(typeof choices)[number][1]>][]);
  } catch (error) {
    if (error instanceof LapidaryError) return undefined;
    throw error;
  }
}

function planOf({ head, request, parts }: Work, columns: readonly Column[]): PlanFile {
  const weights: Record<string, PlanLine> = {};
  for (const { weight } of parts) {
    for (const { weights: own } of columns) {
      const found = own.find(({ name }) => name === weight.name);
      if (found === undefined) continue;
      weights[weight.name] = { ...weights[weight.name], ...lineOf(found.type) };
    }
  }
  const known = ({ origin, bytes, kld, compared }: Column) => ({
    origin,
    budget: request.budget,
    estimate: { bytes, kld },
    compared: [...compared],
  });
  const [gguf, onnx] = (["gguf", "onnx"] as const).map((format) =>
    columns.find((each) => each.format === format),
  );
  return {
    plan: 1,
    ...head,
    ...(gguf === undefined ? {} : { gguf: { mix: gguf.name, ...known(gguf) } }),
    ...(onnx === undefined ? {} : { onnx: { dtype: onnx.name, ...known(onnx) } }),
    weights,
  };
}
