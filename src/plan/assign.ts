import { blockType } from "../blocks/table.js";
import type { BlockTypeName, Method } from "../blocks/types.js";
import { PlanError } from "./errors.js";
import { choose, type Mix, type ModelFacts, type RuledCategory } from "./mixes.js";

/** A tensor as the rules see it. */
export interface Candidate {
  /** Name in GGUF. */
  readonly name: string;
  /** Dimensions in ggml's order: fastest first. */
  readonly ne: readonly number[];
  /** Type that it keeps where nothing may be quantized. */
  readonly kept: BlockTypeName;
}

/** An override of the rules for the tensors whose name a regular expression finds. */
export interface TensorType {
  readonly pattern: string;
  readonly type: BlockTypeName;
  /** Where the pattern stands, for messages, such as `recipe.yaml: tensors[2].match`. */
  readonly where?: string | undefined;
}

/** What stands in front of a mix's rules. */
export interface Overrides {
  /** Types for single tensors; the first pattern that matches wins. */
  readonly tensorTypes?: readonly TensorType[] | undefined;
  /** Type of the output matrix, or of the embedding tables where the model has none of its own. */
  readonly output?: BlockTypeName | undefined;
  /** Type of the embedding tables, before `output`; for the per-layer one `perLayerEmbedding` and patterns come first. */
  readonly embedding?: BlockTypeName | undefined;
  readonly perLayerEmbedding?: BlockTypeName | undefined;
  /** Give every tensor the mix's default type, without its rules. */
  readonly pure?: boolean | undefined;
  /** What replaces a type whose blocks do not divide a row; `stock` when left out. */
  readonly fallback?: Fallback | undefined;
  /** How values will find their places, which decides what `near` may take; `search` when left out. */
  readonly method?: Method | undefined;
}

/** `stock`: llama-quantize's own replacements. `near`: fewest bits that are not below the wish. */
export type Fallback = "stock" | "near";

type Category = RuledCategory | "output" | "embedding" | "other";

const PER_LAYER_TABLE = "per_layer_token_embd.weight";

/** Parts of names that llama-quantize never touches, of those that a Gemma 4 text model can have. */
const UNTOUCHED = ["_norm.weight", "ffn_gate_inp.weight", "per_layer_model_proj"] as const;

const NUMBER_TYPES: ReadonlySet<BlockTypeName> = new Set(["F32", "F16", "BF16"]);

/** Type that a row falls back to when it is not made of whole blocks. */
const SMALLER_BLOCK: Readonly<Partial<Record<BlockTypeName, BlockTypeName>>> = {
  IQ1_S: "IQ4_NL",
  IQ1_M: "IQ4_NL",
  IQ2_XXS: "IQ4_NL",
  IQ2_XS: "IQ4_NL",
  IQ2_S: "IQ4_NL",
  IQ3_XXS: "IQ4_NL",
  IQ3_S: "IQ4_NL",
  IQ4_XS: "IQ4_NL",
  Q2_0: "Q4_0",
  Q2_K: "Q4_0",
  Q3_K: "Q4_0",
  TQ1_0: "Q4_0",
  TQ2_0: "Q4_0",
  Q4_K: "Q5_0",
  Q5_K: "Q5_1",
  Q6_K: "Q8_0",
};

/**
 * Types of small blocks, fewest bits first, and the widest wish that each may stand in for. The two types of
 * four-bit floating point are not among them: at the same size they lose more than IQ4_NL. ggml's method makes
 * garbage of Q2_0, our search does not.
 */
const NEAR: readonly { readonly type: BlockTypeName; readonly bits: number; readonly searched?: true }[] = [
  { type: "Q2_0", bits: 2, searched: true },
  { type: "IQ4_NL", bits: 4 },
  { type: "Q5_0", bits: 5 },
  { type: "Q8_0", bits: 8 },
];

/** Bits that a type is named after. */
function nominalBits(type: BlockTypeName): number {
  return Number(/\d/.exec(type)?.[0]);
}

/** Layer number in a GGUF name; -1 outside the layers. */
export function layerOf(name: string): number {
  const match = /^blk\.(\d+)\./.exec(name);
  return match === null ? -1 : Number(match[1]);
}

/**
 * The order in which llama-quantize visits and writes tensors: outside the layers first, then by layer
 * number, names bytewise.
 */
export function quantizeOrder(a: string, b: string): number {
  // Names are ASCII, for which the order of UTF-16 units is that of bytes.
  return layerOf(a) - layerOf(b) || (a < b ? -1 : Number(a > b));
}

function categoryOf(name: string): Category {
  if (name === "output.weight") return "output";
  if (name === "token_embd.weight" || name === PER_LAYER_TABLE) return "embedding";
  if (name.includes("attn_qkv.weight") || name.includes("attn_v.weight")) return "attention_v";
  if (name.includes("attn_k.weight")) return "attention_k";
  if (name.includes("attn_q.weight")) return "attention_q";
  if (name.includes("attn_output.weight")) return "attention_output";
  if (name.includes("ffn_up")) return "ffn_up";
  if (name.includes("ffn_gate")) return "ffn_gate";
  if (name.includes("ffn_down")) return "ffn_down";
  return "other";
}

/** Whether a tensor is one that llama-quantize rounds: a matrix, and none of those that it never touches. */
export function mayChange({ name, ne }: Pick<Candidate, "name" | "ne">): boolean {
  // As ggml counts dimensions: trailing ones are none.
  const dimensions = ne.findLastIndex((size) => size !== 1) + 1;
  return dimensions >= 2 && name.endsWith("weight") && !UNTOUCHED.some((part) => name.includes(part));
}

/**
 * The type that fits a row: the wished one, one of smaller blocks, at last F16.
 *
 * llama-quantize's replacements are generous: Q4_K becomes Q5_0, IQ3_S becomes IQ4_NL. With `near`, a type
 * of fewest bits not below the wish's nominal width takes its place.
 *
 * @throws PlanError `row-does-not-fit` where llama-quantize knows no replacement either
 */
export function fitType(
  name: string,
  row: number,
  type: BlockTypeName,
  fallback: Fallback = "stock",
  method: Method = "search",
): BlockTypeName {
  const wished = blockType(type);
  if (row % wished.values === 0) return type;
  if (fallback === "near") {
    const near = NEAR.find(
      ({ type: other, bits, searched = false }) =>
        nominalBits(type) <= bits &&
        row % blockType(other).values === 0 &&
        (!searched || method === "search"),
    );
    if (near !== undefined) return near.type;
  }
  const smaller = SMALLER_BLOCK[type];
  if (smaller !== undefined) return row % blockType(smaller).values === 0 ? smaller : "F16";
  if (wished.values <= 32) return "F16";
  throw new PlanError(
    "row-does-not-fit",
    `tensor ${name} has rows of ${row} values, and ${type} packs ${wished.values} at a time with no replacement defined`,
    { exitCode: 2, advice: "Choose another mix, or name a type for this tensor." },
  );
}

/** Runs through tensors in llama-quantize's order and keeps its counters. */
class Assignment {
  readonly #mix: Mix;
  readonly #facts: ModelFacts;
  readonly #counters = new Map<Category, number>();
  readonly #values: number;
  readonly #tied: boolean;
  readonly #output: BlockTypeName | undefined;

  /** @param output type for the output matrix and for embeddings in its stead */
  constructor(
    mix: Mix,
    facts: ModelFacts,
    candidates: readonly Candidate[],
    output: BlockTypeName | undefined,
  ) {
    this.#mix = mix;
    this.#facts = facts;
    this.#output = output;
    this.#values = candidates.filter(({ name }) => categoryOf(name) === "attention_v").length;
    this.#tied = candidates.every(({ name }) => categoryOf(name) !== "output");
  }

  /** The mix's type for a tensor, before its shape is looked at. */
  type(candidate: Candidate): BlockTypeName {
    const mix = this.#mix;
    const category = categoryOf(candidate.name);
    if (category === "output" || (category === "embedding" && this.#tied)) {
      if (this.#output !== undefined) return this.#output;
      const fits = (candidate.ne[0] ?? 0) % blockType(mix.type).values === 0;
      return fits ? mix.output : "Q8_0";
    }
    if (mix.experts !== undefined && (candidate.ne[2] ?? 1) > 1) return mix.experts;
    if (category === "embedding") return mix.untied ?? mix.type;
    if (category === "other") return mix.type;
    return this.#ruled(candidate.name, category);
  }

  #ruled(name: string, category: RuledCategory): BlockTypeName {
    const mix = this.#mix;
    const eight = this.#facts.experts === 8;
    const counter = this.#counters.get(category) ?? 0;
    this.#counters.set(category, counter + 1);
    const feedForward = category.startsWith("ffn_");
    if (eight && category === "attention_k") return mix.eightExpertKeys;
    if (eight && category === "attention_v" && mix.eightExpertKeys === "Q8_0") return "Q8_0";
    if (eight && category === "attention_output") return mix.eightExpertOutput ? "Q5_K" : mix.type;
    const place = {
      index: feedForward && this.#facts.experts > 1 ? layerOf(name) : counter,
      counter,
      count: feedForward ? this.#facts.layers : this.#values,
      model: this.#facts,
    };
    return choose(mix.rules[category], place) ?? mix.type;
  }
}

/**
 * A pattern for names of tensors; as in llama-quantize it is lower case, like all names.
 *
 * @throws PlanError `bad-pattern`
 */
export function tensorPattern(pattern: string): RegExp {
  try {
    return new RegExp(pattern.toLowerCase());
  } catch (error) {
    throw new PlanError(
      "bad-pattern",
      `the tensor pattern ${JSON.stringify(pattern)} is no regular expression`,
      {
        exitCode: 2,
        cause: error,
      },
    );
  }
}

/** The type that a flag names for a table, which no rule may change. */
function named(
  { name }: Candidate,
  overrides: Overrides,
  matched: BlockTypeName | undefined,
): BlockTypeName | undefined {
  const category = categoryOf(name);
  if (category === "output") return overrides.output;
  if (category !== "embedding") return undefined;
  if (name !== PER_LAYER_TABLE) return overrides.embedding;
  return overrides.perLayerEmbedding ?? (matched === undefined ? overrides.embedding : undefined);
}

/**
 * The type of every tensor as llama-quantize (llama.cpp v0.5.0) chooses it, in the order given.
 *
 * Where llama-quantize passes over them in silence, two mistakes are errors here: an override under a mix
 * that does not quantize, and an override whose pattern finds no tensor that may be quantized.
 *
 * @throws PlanError `overrides-need-quantizing`, `bad-pattern`, `pattern-finds-nothing`, `row-does-not-fit`
 */
export function assignTypes(
  candidates: readonly Candidate[],
  mix: Mix,
  facts: ModelFacts,
  overrides: Overrides = {},
): readonly BlockTypeName[] {
  const quantizes = !NUMBER_TYPES.has(mix.type);
  if (!quantizes && overridesAnything(overrides)) {
    throw new PlanError(
      "overrides-need-quantizing",
      `types for single tensors go with a mix that quantizes, and ${mix.name} does not`,
      { exitCode: 2, advice: "Leave the overrides out, or choose a quantizing mix." },
    );
  }
  const patterns = (overrides.tensorTypes ?? []).map((override) => ({
    ...override,
    regex: tensorPattern(override.pattern),
  }));
  const unused = new Set(patterns);
  const assignment = new Assignment(mix, facts, candidates, overrides.output);
  const types = new Map<string, BlockTypeName>();
  for (const candidate of candidates.toSorted((a, b) => quantizeOrder(a.name, b.name))) {
    if (!mayChange(candidate)) {
      types.set(candidate.name, candidate.kept);
      continue;
    }
    if (!quantizes) {
      types.set(candidate.name, mix.type);
      continue;
    }
    const matches = patterns.filter(({ regex }) => regex.test(candidate.name));
    for (const match of matches) unused.delete(match);
    const byName = named(candidate, overrides, matches[0]?.type);
    const ruled = (): BlockTypeName => (overrides.pure ? mix.type : assignment.type(candidate));
    const wished = byName ?? matches[0]?.type ?? ruled();
    types.set(
      candidate.name,
      fitType(candidate.name, candidate.ne[0] ?? 0, wished, overrides.fallback, overrides.method),
    );
  }
  const [stray] = unused;
  if (stray !== undefined) {
    throw new PlanError(
      "pattern-finds-nothing",
      `${stray.where === undefined ? "" : `${stray.where}: `}the tensor pattern ${JSON.stringify(stray.pattern)} finds no tensor that may be quantized`,
      {
        exitCode: 2,
        advice: "Patterns are regular expressions over GGUF names such as blk.3.ffn_down.weight.",
      },
    );
  }
  return candidates.map(({ name, kept }) => types.get(name) ?? kept);
}

/** Whether anything is to stand in front of the rules. */
export function overridesAnything({
  tensorTypes = [],
  output,
  embedding,
  perLayerEmbedding,
  pure,
}: Overrides) {
  return (
    tensorTypes.length > 0 ||
    pure === true ||
    [output, embedding, perLayerEmbedding].some((type) => type !== undefined)
  );
}

/** Whether a tensor is the output matrix or an embedding table. */
export function isTable(name: string): boolean {
  const category = categoryOf(name);
  return category === "output" || category === "embedding";
}

/** Whether a type on a tensor gives garbage without an importance, by llama-quantize's rule. */
export function needsImportance(name: string, type: BlockTypeName, mix: Mix): boolean {
  if (isTable(name)) return false;
  return blockType(type).needsImportance || (type === "Q2_K" && mix.name === "Q2_K_S");
}
