import { createHash } from "node:crypto";
import { externalTensor, model } from "../../../formats/onnx/build.js";
import { encodeModel } from "../../../formats/onnx/codec.js";
import { tensorBytes, elementType } from "../../../formats/onnx/element-types.js";
import { MAX_DATA_FILE_BYTES } from "../../../formats/onnx/limits.js";
import { type ExternalDataLayout, planExternalData } from "../../../formats/onnx/plan.js";
import type { ImportanceMatrix } from "../../../formats/imatrix/types.js";
import { packageVersion } from "../../base/paths.js";
import type { BlockTypeName } from "../../blocks/types.js";
import type { BoundWeight } from "../../gemma4/bind.js";
import { entriesOf } from "../../gemma4/graph/checkpoint-source.js";
import {
  decoderGraph,
  embedGraph,
  GRAPH_OPSET,
  textGraph,
  type UnplacedGraph,
} from "../../gemma4/graph/graphs.js";
import type { GraphTensor, WeightSource } from "../../gemma4/graph/stored.js";
import type { FoldedChannels } from "../../gemma4/folds.js";
import type { Gemma4Config, Weight } from "../../gemma4/types.js";
import { balanceTensors, factorsHash, type TensorFactors } from "../balance.js";
import { PlanError } from "../errors.js";
import type { RoundedBytes } from "../rounded.js";
import {
  checkBlock,
  DTYPES,
  type DtypeName,
  graphFile,
  type GraphChoice,
  groupOf,
  type OnnxForm,
  parseForm,
} from "./dtypes.js";

/** How values find their codes: by a search for the least Σ importance · error², or by rounding to the nearest. */
export type OnnxMethod = "search" | "nearest";

/** How codes were or will be found in a plan: `gptq` with feedback of errors, which is done beforehand. */
export type PlannedOnnxMethod = OnnxMethod | "gptq";

export interface OnnxPlanOptions {
  readonly config: Gemma4Config;
  /** From `bindCheckpoint`. */
  readonly weights: readonly BoundWeight[];
  /** Path of each shard. */
  readonly shards: readonly { readonly path: string }[];
  readonly graphs: readonly GraphChoice[];
  /** Values that share a scale; 32 when left out. */
  readonly block?: number | undefined;
  /** Zero points for all matrices, or for none; as the dtype has it when left out. */
  readonly zeroPoints?: boolean | undefined;
  /** Attribute of every MatMulNBits, 0 to 4; 4 when left out. */
  readonly accuracyLevel?: number | undefined;
  /** Forms of single tensors; the first pattern that finds their name, in the checkpoint or in GGUF, wins. */
  readonly tensorTypes?: readonly {
    readonly pattern: string;
    readonly type: string;
    readonly where?: string | undefined;
  }[];
  readonly method?: OnnxMethod | undefined;
  readonly importance?: ImportanceMatrix | undefined;
  /** Tokens that stand for images and sounds, and the one that per-layer embeddings take for them. */
  readonly placeholders: readonly number[];
  readonly padding: number;
  /** Largest data file in bytes; what browsers can hold when left out. */
  readonly maxFileBytes?: number | undefined;
}

/** A part of an output: which file of the graph (0 is the graph itself), and where in it. */
export interface OutputPlace {
  readonly part: number;
  readonly offset: number;
}

/** A matrix, table or vector, or a cut of one, on its way from the checkpoint into a data file. */
export interface PlannedMatrix {
  /** Name in the checkpoint without its prefix, with the first row or column of a cut behind it. */
  readonly name: string;
  readonly weight: Weight;
  readonly form: OnnxForm;
  readonly origin: {
    readonly name: string;
    readonly path: string;
    /** Of the first row that is read. */
    readonly offset: number;
    readonly type: BlockTypeName;
  };
  /** Values of a row, rows, values of a row of the source, and which of these comes first. */
  readonly row: number;
  readonly rows: number;
  readonly inputRow: number;
  readonly inputColumn: number;
  readonly method: PlannedOnnxMethod;
  readonly importance?: Float32Array<SharedArrayBuffer>;
  /** Where its codes, scales and zero points lie already, for the method `gptq`. */
  readonly rounded?: RoundedBytes;
  /** Number of its first row in the weight; more than 0 in the later ones of a weight that was cut. */
  readonly firstRow: number;
  /** What its values are multiplied with before they are rounded; the model computes the same with all of them. */
  readonly factors?: TensorFactors;
  /** Values themselves, or codes, scales and zero points. */
  readonly outputs: readonly OutputPlace[];
  /** Bytes of all outputs. */
  readonly byteLength: number;
}

/** One graph file with its data files. */
export interface PlannedGraph extends GraphChoice {
  readonly file: string;
  /** The graph file's bytes. */
  readonly bytes: Uint8Array;
  readonly layout: ExternalDataLayout;
  readonly matrices: readonly PlannedMatrix[];
}

export interface OnnxPlan {
  readonly graphs: readonly PlannedGraph[];
  readonly method: PlannedOnnxMethod;
  /** Path of the importance matrix, or null. */
  readonly importance: string | null;
  readonly block: number;
  readonly accuracyLevel: number;
  /** SHA-256 over everything that decides the bytes. */
  readonly hash: string;
}

const DEFAULT_BLOCK = 32;
/** What published files have: products with activations of 8 bits, many times as fast as level 0 at 2 and 8 bits. */
export const DEFAULT_ACCURACY_LEVEL = 4;

/** Checkpoint types by the names that both formats share. */
function sourceType(dtype: string): BlockTypeName {
  return dtype as BlockTypeName;
}

interface Pattern {
  readonly text: string;
  readonly expression: RegExp;
  readonly form: OnnxForm;
  readonly where: string;
  found: boolean;
}

function patternsOf({ tensorTypes = [], block = DEFAULT_BLOCK }: OnnxPlanOptions): Pattern[] {
  return tensorTypes.map(({ pattern, type, where = `--tensor-type ${pattern}=${type}` }) => {
    let expression: RegExp;
    try {
      expression = new RegExp(pattern, "i");
    } catch (error) {
      throw new PlanError("bad-pattern", `${where}: ${(error as Error).message}.`, {
        exitCode: 2,
        cause: error,
      });
    }
    return { text: pattern, expression, form: parseForm(type, block, where), where, found: false };
  });
}

function isTable({ role }: Weight): boolean {
  return role === "embedding" || role === "ple_table";
}

/** Chooses the form of each weight of a graph. */
class Forms implements WeightSource {
  readonly maxTensorBytes: number;
  readonly #options: OnnxPlanOptions;
  readonly #dtype: DtypeName;
  readonly #patterns: readonly Pattern[];

  constructor(options: OnnxPlanOptions, dtype: DtypeName, patterns: readonly Pattern[]) {
    this.#options = options;
    this.#dtype = dtype;
    this.#patterns = patterns;
    this.maxTensorBytes = options.maxFileBytes ?? MAX_DATA_FILE_BYTES;
  }

  form(weight: Weight): OnnxForm {
    const group = groupOf(weight.role);
    if (group === "exact") return { kind: "float", type: "FLOAT" };
    const { block = DEFAULT_BLOCK, zeroPoints } = this.#options;
    const pattern = this.#patterns.find(
      ({ expression }) => expression.test(weight.name) || expression.test(weight.gguf),
    );
    if (pattern !== undefined) {
      pattern.found = true;
      return this.#fitting(
        weight,
        isTable(weight) ? pattern.form : this.#inType(pattern.form),
        pattern.where,
      );
    }
    const { forms } = DTYPES[this.#dtype];
    const form = parseForm(forms[group], block, `--dtype ${this.#dtype}`);
    const own = form.kind === "float" || zeroPoints === undefined ? form : { ...form, zeroPoints };
    return this.#fitting(weight, own, `--block-size ${block}`);
  }

  /** Numbers of a matrix are of the type that the graph computes in. */
  #inType(form: OnnxForm): OnnxForm {
    return form.kind === "float" ? { ...form, type: DTYPES[this.#dtype].internal } : form;
  }

  /** Two bits in these blocks have no kernel for level 4: they would run a hundred times as slow, without a word. */
  #checkFast(form: OnnxForm, where: string): void {
    const { accuracyLevel = DEFAULT_ACCURACY_LEVEL } = this.#options;
    const slow = form.kind === "nbits" && form.bits === 2 && (form.block === 16 || form.block === 256);
    if (!slow || accuracyLevel !== 4) return;
    throw new PlanError(
      "slow-block",
      `${where}: ONNX Runtime has no fast kernel for 2 bits in blocks of ${form.block}, expected 32, 64 or 128.`,
      {
        exitCode: 2,
        advice: "Choose another block size, or pass --accuracy-level 0 to write it all the same.",
      },
    );
  }

  /** A table has no padding at the end of its rows. */
  #fitting(weight: Weight, form: OnnxForm, where: string): OnnxForm {
    if (!isTable(weight)) this.#checkFast(form, where);
    const columns = weight.shape.at(-1) ?? 1;
    if (form.kind === "nbits" && isTable(weight) && columns % form.block !== 0) {
      throw new PlanError(
        "block-does-not-fit",
        `${where}: a row of ${weight.name} has ${columns} values, which are no whole blocks of ${form.block}.`,
        { exitCode: 2, advice: "Choose a smaller block." },
      );
    }
    return form;
  }
}

function unplacedGraph(
  options: OnnxPlanOptions,
  { graph, dtype }: GraphChoice,
  source: WeightSource,
): UnplacedGraph {
  const { config, placeholders, padding, accuracyLevel = DEFAULT_ACCURACY_LEVEL } = options;
  const { internal } = DTYPES[dtype];
  const common = { config, source, internal, accuracyLevel };
  if (graph === "decoder_model_merged") return decoderGraph(common);
  const embed = { ...common, placeholders, padding };
  return graph === "embed_tokens" ? embedGraph(embed) : textGraph(embed);
}

/** Tensors of one weight, or of one cut of it, which are made from the same values. */
function matricesOf(
  tensors: readonly GraphTensor[],
  layout: ExternalDataLayout,
  options: OnnxPlanOptions,
): PlannedMatrix[] {
  const entryOf = entriesOf(options.weights);
  const method = options.method ?? "search";
  const matrices: PlannedMatrix[] = [];
  for (const [index, { weight, form, part, rows, columns, name }] of tensors.entries()) {
    const { part: file, offset, byteLength } = layout.tensors[index]!;
    const place: OutputPlace = { part: file, offset };
    const last = matrices.at(-1);
    if (part !== "values" && part !== "codes" && last !== undefined) {
      // Scales and zero points follow their codes.
      matrices[matrices.length - 1] = {
        ...last,
        outputs: [...last.outputs, place],
        byteLength: last.byteLength + byteLength,
      };
      continue;
    }
    const entry = entryOf(weight);
    const inputRow = weight.shape.at(-1) ?? 1;
    const allRows = weight.shape.slice(0, -1).reduce((product, size) => product * size, 1);
    const type = sourceType(entry.dtype);
    const importance = form.kind === "nbits" ? importanceOf(weight, options.importance) : undefined;
    matrices.push({
      name: part === "codes" ? name.replace(/\.codes$/, "") : name,
      weight,
      // What a source of this plan gives.
      form: form as OnnxForm,
      origin: {
        name: entry.name,
        path: options.shards[entry.shard]!.path,
        offset: entry.offset + (rows?.first ?? 0) * inputRow * (type === "F32" ? 4 : 2),
        type,
      },
      row: columns?.count ?? inputRow,
      rows: rows?.count ?? allRows,
      inputRow,
      inputColumn: columns?.first ?? 0,
      firstRow: rows?.first ?? 0,
      method,
      ...(importance === undefined ? {} : { importance }),
      outputs: [place],
      byteLength,
    });
  }
  return matrices;
}

/** Importance of the columns of a matrix; nothing is multiplied by a table. */
function importanceOf(
  weight: Weight,
  matrix: ImportanceMatrix | undefined,
): Float32Array<SharedArrayBuffer> | undefined {
  if (isTable(weight)) return undefined;
  const found = matrix?.entries.get(weight.gguf);
  if (matrix === undefined || found === undefined) return undefined;
  const stack = weight.shape.slice(0, -2).reduce((product, size) => product * size, 1);
  const expected = stack * (weight.shape.at(-1) ?? 1);
  if (found.values.length === expected) return found.values;
  throw new PlanError(
    "importance-mismatch",
    `${matrix.path}: ${weight.gguf} has an importance of ${found.values.length} values, expected ${expected}`,
    { exitCode: 2, advice: "The importance matrix was made for another model: make one for this model." },
  );
}

function checkOptions({
  block = DEFAULT_BLOCK,
  accuracyLevel = DEFAULT_ACCURACY_LEVEL,
  graphs,
}: OnnxPlanOptions): void {
  checkBlock(block, `--block-size ${block}`);
  if (!Number.isInteger(accuracyLevel) || accuracyLevel < 0 || accuracyLevel > 4) {
    throw new PlanError("bad-accuracy-level", `--accuracy-level ${accuracyLevel}: expected 0 to 4.`, {
      exitCode: 2,
    });
  }
  if (graphs.length === 0)
    throw new PlanError("no-dtype", "--dtype names nothing to write.", { exitCode: 2 });
}

/**
 * Plans the graphs of a checkpoint's text model in the transformers.js layout, to the byte.
 *
 * @throws PlanError `bad-block-size`, `block-does-not-fit`, `bad-accuracy-level`, `bad-pattern`, `unknown-form`,
 * `pattern-finds-nothing`, `importance-mismatch`; OnnxError for a tensor that no data file holds
 */
export async function planOnnx(options: OnnxPlanOptions): Promise<OnnxPlan> {
  checkOptions(options);
  const patterns = patternsOf(options);
  const graphs: PlannedGraph[] = [];
  for (const choice of options.graphs) graphs.push(await planGraph(options, choice, patterns));
  const lost = patterns.find(({ found }) => !found);
  if (lost !== undefined) {
    throw new PlanError(
      "pattern-finds-nothing",
      `${lost.where}: the pattern finds no matrix of the graphs.`,
      {
        exitCode: 2,
        advice: "It is looked for in names such as layers.0.mlp.down_proj.weight and blk.0.ffn_down.weight.",
      },
    );
  }
  const {
    method = "search",
    importance,
    block = DEFAULT_BLOCK,
    accuracyLevel = DEFAULT_ACCURACY_LEVEL,
  } = options;
  return {
    graphs,
    method,
    importance: importance?.path ?? null,
    block,
    accuracyLevel,
    hash: hashOf(graphs),
  };
}

/**
 * The plan with the channels of folds scaled, graph by graph, which changes nothing but the values that are rounded.
 *
 * @param folded of each graph
 */
export function balanceOnnx(plan: OnnxPlan, folded: readonly (readonly FoldedChannels[])[]): OnnxPlan {
  if (folded.every((folds) => folds.length === 0)) return plan;
  const graphs = plan.graphs.map((graph, index) => ({
    ...graph,
    matrices: balanceTensors(graph.matrices, folded[index] ?? [], ({ weight }) => weight.gguf).map(
      cutFactors,
    ),
  }));
  return { ...plan, graphs, hash: hashOf(graphs) };
}

/** Of the factors of a whole weight, those of a cut's rows. */
function cutFactors(matrix: PlannedMatrix): PlannedMatrix {
  const { factors, firstRow, rows } = matrix;
  if (factors?.rows === undefined || factors.rows.length === rows) return matrix;
  return { ...matrix, factors: { ...factors, rows: factors.rows.subarray(firstRow, firstRow + rows) } };
}

async function planGraph(
  options: OnnxPlanOptions,
  choice: GraphChoice,
  patterns: readonly Pattern[],
): Promise<PlannedGraph> {
  const file = graphFile(choice.graph, choice.dtype);
  const source = new Forms(options, choice.dtype, patterns);
  const unplaced = unplacedGraph(options, choice, source);
  const { tensors } = unplaced;
  const layout = planExternalData(
    file,
    tensors.map(({ name, type, dims }) => ({
      name,
      byteLength: tensorBytes(elementType(type), dims, `Tensor ${name}`),
    })),
    options.maxFileBytes === undefined ? {} : { maxFileBytes: options.maxFileBytes },
  );
  const places = new Map(tensors.map((tensor, index) => [tensor, layout.tensors[index]!]));
  const graph = unplaced.place((tensor) =>
    externalTensor(tensor.name, tensor.type, tensor.dims, places.get(tensor)!),
  );
  const bytes = await encodeModel(
    model(graph, {
      opset: GRAPH_OPSET,
      domains: { "com.microsoft": 1 },
      producer: { name: "lapidary", version: packageVersion() },
    }),
  );
  return { ...choice, file, bytes, layout, matrices: matricesOf(tensors, layout, options) };
}

/** Canonical text: arrays only. Paths are left out, since a journal compares the files themselves. */
function hashOf(graphs: readonly PlannedGraph[]): string {
  const rows = graphs.map(({ file, bytes, layout, matrices }) => [
    file,
    sha256(bytes),
    layout.files.map(({ name, size }) => [name, size]),
    matrices.map(
      ({ name, form, origin, row, rows, inputRow, inputColumn, method, importance, factors, outputs }) => [
        name,
        form.kind === "float" ? form.type : [form.bits, form.block, form.zeroPoints],
        [origin.name, origin.type, origin.offset],
        [row, rows, inputRow, inputColumn],
        form.kind === "float" ? null : method,
        importance === undefined ? null : sha256(importance),
        outputs.map(({ part, offset }) => [part, offset]),
        ...(factors === undefined ? [] : [factorsHash(factors)]),
      ],
    ),
  ]);
  return sha256(JSON.stringify(["lapidary-onnx-plan", 1, rows]));
}

function sha256(bytes: string | NodeJS.ArrayBufferView): string {
  return createHash("sha256").update(bytes).digest("hex");
}
