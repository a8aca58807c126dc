import { readdir, rm } from "node:fs/promises";
import { join, resolve } from "node:path";
import { makeFolder, checkOutput } from "../base/atomic-file.js";
import { dataFileName } from "../../formats/onnx/plan.js";
import type { PlannedFile } from "../../formats/output-files.js";
import { paddingToken, placeholderTokens } from "../gemma4/transformers-js.js";
import { DTYPES, type DtypeName, type GraphName, parseDtypes } from "../plan/onnx/dtypes.js";
import {
  type OnnxMethod,
  type PlannedOnnxMethod,
  type OnnxPlan,
  type PlannedGraph,
  type PlannedMatrix,
  planOnnx,
} from "../plan/onnx/plan.js";
import { findTensors } from "../quantize/redo.js";
import type { RunResult } from "../quantize/run.js";
import type { StoredTensor, Work } from "../quantize/work.js";
import type { ValueRange } from "../verify/onnx/range.js";
import { type BalanceChoice, type BalancedFold, balancedExport } from "./balance.js";
import { PipelineError } from "./errors.js";
import { packageFiles, readConfigJson, writePackageFiles } from "./package-files.js";
import type { OpenPlan } from "./plan-file.js";
import type { Reporter } from "./progress.js";
import { checkRange } from "./range.js";
import { type CheckpointSource, openSource } from "./source.js";

/** What `convert --to onnx` is asked for. */
export interface ExportRequest {
  /** Folder of a checkpoint. */
  readonly source: string;
  /** Folder of the package. */
  readonly out: string;
  /** Dtypes, for all graphs or as `graph=dtype` for one. */
  readonly dtypes: readonly string[];
  readonly layout: "transformers.js" | "genai";
  readonly block?: number | undefined;
  readonly zeroPoints?: boolean | undefined;
  readonly accuracyLevel?: number | undefined;
  readonly tensorTypes?: readonly {
    readonly pattern: string;
    readonly type: string;
    readonly where?: string | undefined;
  }[];
  /** Types of all matrices that `tensorTypes` does not name. */
  readonly plan?: OpenPlan | undefined;
  readonly method?: OnnxMethod | undefined;
  /** When left out: `auto`, but `off` for the method `nearest`. */
  readonly balance?: BalanceChoice | undefined;
  readonly imatrix?: string | undefined;
  readonly threads: number;
  /** Ceiling of working memory in bytes. */
  readonly memory: number;
  readonly dryRun: boolean;
  readonly force: boolean;
  readonly redo?: string | undefined;
  /** Text that shows whether the values of the model fit halves, for the dtypes that compute in them. */
  readonly rangeText?: string | undefined;
  /** Whether that is looked at; true when left out. */
  readonly checkRange?: boolean | undefined;
}

/** How many tensors and bytes a form takes. */
export interface FormShare {
  /** Such as `q4` for 4 bits, `q4z` with zero points, `fp32`. */
  readonly type: string;
  readonly tensors: number;
  readonly bytes: number;
}

/** One graph that was written, would be written, or is there already. */
export interface ExportedGraph {
  readonly graph: GraphName | "model";
  readonly dtype: DtypeName;
  /** The graph, then its data files. */
  readonly files: readonly string[];
  readonly bytes: number;
  /** Values of all weights. */
  readonly values: number;
  /** Bits of all files a weight. */
  readonly bitsPerWeight: number;
  /** Most bytes first. */
  readonly shares: readonly FormShare[];
  readonly block: number;
  readonly accuracyLevel: number;
  readonly method: PlannedOnnxMethod;
  /** Path of the importance matrix, or null. */
  readonly importance: string | null;
  /** Folds whose channels were scaled before rounding; null where none was looked for, as in a dry run. */
  readonly balance: readonly BalancedFold[] | null;
  readonly tensors: readonly ExportedTensor[];
}

/** A matrix, table or vector of a graph. */
export interface ExportedTensor {
  readonly name: string;
  readonly type: string;
  readonly shape: readonly number[];
  readonly bytes: number;
}

/** What `convert --to onnx --json` prints. */
export interface ExportReport {
  readonly graphs: readonly ExportedGraph[];
  readonly outcome: "planned" | "written" | "continued" | "unchanged";
  /** Tensors that were finished already, and were kept. */
  readonly resumed: number;
  /** Tensors that were finished already, and had other bytes than were written: they were done again. */
  readonly damaged: number;
  readonly seconds: number;
  /** Identity of the plan: equal for equal graphs and data from equal input. */
  readonly plan: string;
  /** How large values get, where a dtype computes in halves and it was looked at. */
  readonly range: ValueRange | null;
}

/** A form as users name it, blocks left out. */
export function formName(form: PlannedMatrix["form"]): string {
  if (form.kind === "float") return form.type === "FLOAT" ? "fp32" : "fp16";
  return `q${form.bits}${form.zeroPoints ? "z" : ""}`;
}

function sharesOf(matrices: readonly PlannedMatrix[]): FormShare[] {
  const shares = new Map<string, { tensors: number; bytes: number }>();
  for (const { form, byteLength } of matrices) {
    const name = formName(form);
    const { tensors, bytes } = shares.get(name) ?? { tensors: 0, bytes: 0 };
    shares.set(name, { tensors: tensors + 1, bytes: bytes + byteLength });
  }
  return [...shares].map(([type, share]) => ({ type, ...share })).toSorted((a, b) => b.bytes - a.bytes);
}

function describe(
  graph: PlannedGraph,
  plan: OnnxPlan,
  folder: string,
  balance: ExportedGraph["balance"],
): ExportedGraph {
  const { layout, matrices, bytes, dtype, file } = graph;
  const size = bytes.length + layout.size;
  const values = matrices.reduce((sum, { row, rows }) => sum + row * rows, 0);
  return {
    graph: graph.graph,
    dtype,
    files: [file, ...layout.files.map(({ name }) => name)].map((name) => join(folder, name)),
    bytes: size,
    values,
    bitsPerWeight: (size * 8) / values,
    shares: sharesOf(matrices),
    block: plan.block,
    accuracyLevel: plan.accuracyLevel,
    method: plan.method,
    importance: plan.importance,
    balance,
    tensors: matrices.map(({ name, form, row, rows, byteLength }) => ({
      name,
      type: formName(form),
      shape: rows === 1 ? [row] : [rows, row],
      bytes: byteLength,
    })),
  };
}

/** All graphs of a plan as files and the tensors that fill them. */
function workOf(plan: OnnxPlan, folder: string, output: string): Work {
  const files: PlannedFile[] = [];
  const tensors: StoredTensor[] = [];
  for (const { file, bytes, layout, matrices } of plan.graphs) {
    const first = files.length;
    files.push({ path: resolve(folder, file), size: bytes.length, head: bytes });
    for (const { name, size } of layout.files) {
      files.push({ path: resolve(folder, name), size, head: new Uint8Array(0) });
    }
    for (const matrix of matrices) tensors.push(storedOf(matrix, file, first));
  }
  return {
    output,
    files,
    tensors,
    key: plan.hash,
    mix: plan.graphs.map(({ file }) => file).join(", "),
    importance: plan.importance,
    headDifference: async () => "another graph, such as one of another accuracy level or version",
  };
}

function storedOf(matrix: PlannedMatrix, graphFile: string, first: number): StoredTensor {
  const {
    name,
    form,
    origin,
    row,
    rows,
    inputRow,
    inputColumn,
    method,
    importance,
    factors,
    outputs,
    rounded,
  } = matrix;
  const sliced = inputRow !== row;
  return {
    kind: "stored",
    name: `${graphFile}: ${name}`,
    input: origin.path,
    inputOffset: origin.offset,
    ...(sliced ? { inputRow, inputColumn } : {}),
    source: origin.type,
    target:
      form.kind === "float"
        ? form.type === "FLOAT"
          ? "F32"
          : "F16"
        : { bits: form.bits, block: form.block, zeroPoints: form.zeroPoints },
    row,
    rows,
    ...(method === "gptq"
      ? { copies: rounded?.pieces }
      : {
          ...(form.kind === "float" ? {} : { method }),
          ...(importance === undefined ? {} : { importance }),
          ...(factors === undefined ? {} : { factors }),
        }),
    places: outputs.map(({ part, offset }) => ({ file: first + part, offset })),
  };
}

/** Where the graphs of a layout lie. */
function graphFolder({ out, layout }: ExportRequest): string {
  return layout === "genai" ? out : join(out, "onnx");
}

async function openCheckpointSource(path: string): Promise<CheckpointSource> {
  const source = await openSource(path);
  if (source.kind === "checkpoint") return source;
  throw new PipelineError("no-source", `${path}: an ONNX package is made from the folder of a checkpoint.`, {
    exitCode: 2,
    advice: "Give the checkpoint that the GGUF file was made from.",
  });
}

async function planExport(source: CheckpointSource, request: ExportRequest): Promise<OnnxPlan> {
  const { dtypes, layout, block, zeroPoints, accuracyLevel, plan, method, imatrix } = request;
  const tensorTypes = [...(request.tensorTypes ?? [])];
  if (plan !== undefined) {
    const { onnxTypes } = await import("./plan-types.js");
    tensorTypes.push(...onnxTypes(plan, source.config, source.bound.weights));
  }
  const json = await readConfigJson(source.folder);
  const importance =
    imatrix === undefined
      ? undefined
      : await (await import("../../formats/imatrix/read.js")).readImportance(imatrix);
  return planOnnx({
    config: source.config,
    weights: source.bound.weights,
    shards: source.checkpoint.shards,
    graphs: parseDtypes(dtypes, layout),
    block,
    zeroPoints,
    accuracyLevel,
    tensorTypes,
    method,
    importance,
    placeholders: placeholderTokens(json),
    padding: paddingToken(json),
  });
}

/** What the runtime should load of a package whose graphs are all of one dtype each. */
function defaultDtype(graphs: readonly PlannedGraph[]): Record<string, DtypeName> | undefined {
  const chosen = new Map<string, DtypeName>();
  for (const { graph, dtype } of graphs) {
    if (chosen.has(graph)) return undefined;
    chosen.set(graph, dtype);
  }
  return Object.fromEntries(chosen);
}

/**
 * Writes the graphs of a checkpoint's text model and what belongs to them, so that transformers.js (or
 * onnxruntime-genai) loads the folder. Everything that can be wrong with the request is found before the first byte
 * is written.
 *
 * @param settle gets the report while a journal still vouches for the files: should it fail, the same request finds them
 *   done
 * @throws LapidaryError of any room; the signal's reason after an abort
 */
export async function exportOnnx(
  request: ExportRequest,
  reporter: Reporter,
  signal: AbortSignal,
  settle: (report: ExportReport) => Promise<void> = async () => {},
): Promise<ExportReport> {
  const { out, layout, force, redo } = request;
  const source = await openCheckpointSource(request.source);
  const { plan, balance } = await balancedExport(
    await planExport(source, request),
    balanceOf(request),
    reporter,
    signal,
  );
  const folder = graphFolder(request);
  const output = resolve(folder, "export");
  const work = workOf(plan, folder, output);
  const small = await packageFiles(
    {
      source: source.folder,
      out,
      config: source.config,
      layout,
      chunks: Object.fromEntries(plan.graphs.map(({ file, layout: data }) => [file, data.files.length])),
      dtype: defaultDtype(plan.graphs),
    },
    force,
  );
  const graphs = plan.graphs.map((graph, index) => describe(graph, plan, folder, balance?.[index] ?? null));
  const { checkWorkRedo, isWorkDone, runWork } = await import("../quantize/run.js");
  const { forgetRun } = await import("../quantize/quantize.js");
  const names = "names such as layers.3.mlp.down_proj.weight, behind the name of the graph file";
  const again = redo === undefined ? undefined : { pattern: redo, tensors: findTensors(work, redo, names) };
  const nothing = { graphs, resumed: 0, damaged: 0, seconds: 0, plan: plan.hash, range: null };
  if (request.dryRun) return { ...nothing, outcome: "planned" };
  const done = await isWorkDone(work, redo);
  if (!done) {
    for (const { path } of work.files) await checkOutput(path, force || redo !== undefined);
    if (again !== undefined) await checkWorkRedo(work, { overwrite: force });
  }
  const halves = plan.graphs.some(({ dtype }) => DTYPES[dtype].internal === "FLOAT16");
  const range =
    done || !halves || request.checkRange === false
      ? null
      : await checkRange(source, request, reporter, signal);
  await makeFolder(folder);
  const started = performance.now();
  let result: RunResult | undefined;
  if (!done) {
    reporter.start(`export ${plan.graphs.length} graphs`);
    result = await runWork(work, {
      threads: request.threads,
      memoryBytes: request.memory,
      overwrite: force,
      redo: again,
      keepJournal: true,
      signal,
      onProgress: ({ bytesRead, totalBytes, rate, eta }) =>
        reporter.progress({ done: bytesRead, total: totalBytes, unit: "bytes", pace: { rate, left: eta } }),
    });
    reporter.finish(result.resumed > 0 ? `continued behind ${result.resumed} tensors` : "written");
  }
  await writePackageFiles(small);
  await removeLeftOver(plan, folder);
  const seconds = (performance.now() - started) / 1000;
  const report = { ...nothing, range, seconds, ...outcomeOf(result) };
  await settle(report);
  await forgetRun(output);
  return report;
}

/** A dry run reads no values, and the runtime's own rounding is that of the values as they are. */
function balanceOf({ balance, method, dryRun }: ExportRequest): BalanceChoice {
  if (dryRun) return "off";
  return balance ?? (method === "nearest" ? "off" : "auto");
}

function outcomeOf(result: RunResult | undefined): Pick<ExportReport, "outcome" | "resumed" | "damaged"> {
  if (result === undefined) return { outcome: "unchanged", resumed: 0, damaged: 0 };
  const { resumed, damaged } = result;
  return { outcome: resumed > 0 ? "continued" : "written", resumed, damaged };
}

/** Data files of an earlier export into the same names that the graphs of this one do not have. */
async function removeLeftOver(plan: OnnxPlan, folder: string): Promise<void> {
  const names = new Set(await readdir(folder));
  for (const { file, layout } of plan.graphs) {
    for (let index = layout.files.length; names.has(dataFileName(file, index)); index++) {
      await rm(join(folder, dataFileName(file, index)), { force: true });
    }
  }
}
