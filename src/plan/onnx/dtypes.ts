import type { FloatType } from "../../gemma4/graph/builder.js";
import type { FloatForm, NBitsForm } from "../../gemma4/graph/stored.js";
import type { Role } from "../../gemma4/types.js";
import { PlanError } from "../errors.js";

/** Graphs of a text model in the transformers.js layout. */
const GRAPHS = ["embed_tokens", "decoder_model_merged"] as const;

/** A graph of either layout: the genai one has a single graph for text. */
export type GraphName = (typeof GRAPHS)[number] | "model";

/** Whose layout is written. */
export type PackageLayout = "transformers.js" | "genai";

/** What the table below fixes a form for. */
export type Group =
  | "attention"
  | "mlp"
  | "experts"
  | "per_layer"
  | "head"
  | "embedding"
  | "ple_table"
  | "ple_projection"
  /** Router, norms and scales: never rounded. */
  | "exact";

/** A form that an export writes. */
export type OnnxForm = (FloatForm & { readonly type: "FLOAT" | "FLOAT16" }) | NBitsForm;

/** A form by the name that users give it; the block size is chosen apart. */
type FormName = "fp32" | "fp16" | "q8" | "q4" | "q4z" | "q2" | "q2z";

const BITS: Readonly<Record<string, 2 | 4 | 8>> = { q8: 8, q4: 4, q4z: 4, q2: 2, q2z: 2 };

interface Dtype {
  /** What transformers.js puts behind the name of a graph. */
  readonly suffix: string;
  readonly internal: FloatType;
  readonly forms: Readonly<Record<Exclude<Group, "exact">, FormName>>;
}

function all(form: FormName): Dtype["forms"] {
  return {
    attention: form,
    mlp: form,
    experts: form,
    per_layer: form,
    head: form,
    embedding: form,
    ple_table: form,
    ple_projection: form,
  };
}

/**
 * Attention and MLP take the bits that the dtype is named after. The head, the embedding and the small matrices of the
 * per-layer embeddings have 8: these are 1 % of E2B's weights, and with 4 bits they make a quarter of the KL divergence
 * of the miniature. Of the table of per-layer embeddings each token reads one row; zero points cost it 3 %.
 */
const Q4: Dtype["forms"] = {
  ...all("q4"),
  per_layer: "q8",
  head: "q8",
  embedding: "q8",
  ple_table: "q4z",
  ple_projection: "q8",
};

/** Only the MLP, which holds most of the weights, stands 2 bits; without zero points they are {−2, −1, 0, 1}. */
const Q2: Dtype["forms"] = { ...Q4, mlp: "q2z", experts: "q2z", embedding: "q4z", head: "q4" };

/** Every dtype that can be exported, by the name that transformers.js has for it. */
export const DTYPES = {
  fp32: { suffix: "", internal: "FLOAT", forms: all("fp32") },
  fp16: { suffix: "_fp16", internal: "FLOAT16", forms: all("fp16") },
  q8: { suffix: "_quantized", internal: "FLOAT", forms: all("q8") },
  q4: { suffix: "_q4", internal: "FLOAT", forms: Q4 },
  q4f16: { suffix: "_q4f16", internal: "FLOAT16", forms: Q4 },
  q2: { suffix: "_q2", internal: "FLOAT", forms: Q2 },
  q2f16: { suffix: "_q2f16", internal: "FLOAT16", forms: Q2 },
} as const satisfies Record<string, Dtype>;

export type DtypeName = keyof typeof DTYPES;

/** Name of a graph's file. */
export function graphFile(graph: GraphName, dtype: DtypeName): string {
  if (graph === "model") return "model.onnx";
  return `${graph}${DTYPES[dtype].suffix}.onnx`;
}

/** A graph and what it is to be written in. */
export interface GraphChoice {
  readonly graph: GraphName;
  readonly dtype: DtypeName;
}

function dtypeOf(text: string): DtypeName {
  if (Object.hasOwn(DTYPES, text)) return text as DtypeName;
  throw new PlanError(
    "unknown-dtype",
    `--dtype ${text}: there is no such dtype, expected one of ${Object.keys(DTYPES).join(", ")}.`,
    { exitCode: 2, advice: "Name one for all graphs, or GRAPH=DTYPE for a single one." },
  );
}

function graphOf(text: string): GraphName {
  const found = GRAPHS.find((graph) => graph === text);
  if (found !== undefined) return found;
  throw new PlanError(
    "unknown-graph",
    `--dtype ${text}=…: there is no such graph, expected one of ${GRAPHS.join(", ")}.`,
    { exitCode: 2 },
  );
}

/**
 * Reads a list such as `q4,fp16`, or `q4,embed_tokens=q8`: a dtype stands for all graphs, one for a single graph takes
 * its place there, and where there are only such, only those graphs are written.
 *
 * @returns every graph once in each dtype that it is to be written in
 * @throws PlanError (exit code 2) for an unknown dtype or graph, and one that is named twice
 */
export function parseDtypes(
  items: readonly string[],
  layout: PackageLayout = "transformers.js",
): GraphChoice[] {
  if (layout === "genai") return [{ graph: "model", dtype: singleDtype(items) }];
  const general: DtypeName[] = [];
  const single = new Map<GraphName, DtypeName>();
  for (const item of items) {
    const at = item.indexOf("=");
    if (at < 0) {
      const dtype = dtypeOf(item);
      if (general.includes(dtype)) throw twice(item);
      general.push(dtype);
      continue;
    }
    const graph = graphOf(item.slice(0, at));
    if (single.has(graph)) throw twice(graph);
    single.set(graph, dtypeOf(item.slice(at + 1)));
  }
  return GRAPHS.flatMap((graph) => {
    const own = single.get(graph);
    const dtypes = own === undefined ? general : [own];
    return dtypes.map((dtype) => ({ graph, dtype }));
  });
}

/** The one dtype of a folder that can hold one only. */
function singleDtype(items: readonly string[]): DtypeName {
  const [only = ""] = items;
  if (items.length === 1 && !only.includes("=")) return dtypeOf(only);
  throw new PlanError(
    "single-dtype",
    `--dtype ${items.join(",")}: the genai layout has one graph, expected one dtype.`,
    { exitCode: 2, advice: "Export each dtype into a folder of its own." },
  );
}

function twice(what: string): PlanError {
  return new PlanError("named-twice", `--dtype names ${what} twice.`, { exitCode: 2 });
}

const GROUPS: Readonly<Partial<Record<Role, Group>>> = {
  q_proj: "attention",
  k_proj: "attention",
  v_proj: "attention",
  o_proj: "attention",
  ffn_gate: "mlp",
  ffn_up: "mlp",
  ffn_down: "mlp",
  experts_gate_up: "experts",
  experts_down: "experts",
  ple_gate: "per_layer",
  ple_layer_projection: "per_layer",
  head: "head",
  embedding: "embedding",
  ple_table: "ple_table",
  ple_projection: "ple_projection",
};

export function groupOf(role: Role): Group {
  return GROUPS[role] ?? "exact";
}

/** Sizes of blocks that the runtime has kernels for. */
const BLOCKS: readonly number[] = [16, 32, 64, 128, 256];

/** @throws PlanError (exit code 2) for a size that no runtime knows */
export function checkBlock(block: number, where: string): void {
  if (BLOCKS.includes(block)) return;
  throw new PlanError("bad-block-size", `${where}: expected a block of ${BLOCKS.join(", ")} values.`, {
    exitCode: 2,
  });
}

/**
 * Reads a form: `fp32`, `fp16`, or bits with what is different from the defaults, such as `q4`, `q4z` (with zero
 * points), `q2z-64` (in blocks of 64).
 *
 * @param where the flag, for messages
 * @throws PlanError (exit code 2)
 */
export function parseForm(text: string, block: number, where: string): OnnxForm {
  if (text === "fp32") return { kind: "float", type: "FLOAT" };
  if (text === "fp16") return { kind: "float", type: "FLOAT16" };
  const [, name = "", size] = /^(q[842]z?)(?:-(\d{1,3}))?$/.exec(text) ?? [];
  const bits = BITS[name.replace("q8z", "q8")];
  if (bits === undefined) {
    throw new PlanError(
      "unknown-form",
      `${where}: ${text} is no type for ONNX, expected fp32, fp16, q8, q4 or q2, perhaps with z for zero points and the block size, as in q4z-64.`,
      { exitCode: 2 },
    );
  }
  const own = size === undefined ? block : Number(size);
  checkBlock(own, where);
  return { kind: "nbits", bits, block: own, zeroPoints: name.endsWith("z") };
}
