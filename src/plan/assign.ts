import { blockType } from "../blocks/table.js";
import type { BlockTypeName } from "../blocks/types.js";
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
}

type Category = RuledCategory | "output" | "embedding" | "other";

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
  if (name === "token_embd.weight" || name === "per_layer_token_embd.weight") return "embedding";
  if (name.includes("attn_qkv.weight") || name.includes("attn_v.weight")) return "attention_v";
  if (name.includes("attn_k.weight")) return "attention_k";
  if (name.includes("attn_q.weight")) return "attention_q";
  if (name.includes("attn_output.weight")) return "attention_output";
  if (name.includes("ffn_up")) return "ffn_up";
  if (name.includes("ffn_gate")) return "ffn_gate";
  if (name.includes("ffn_down")) return "ffn_down";
  return "other";
}

function mayChange({ name, ne }: Candidate): boolean {
  // As ggml counts dimensions: trailing ones are none.
  const dimensions = ne.findLastIndex((size) => size !== 1) + 1;
  return dimensions >= 2 && name.endsWith("weight") && !UNTOUCHED.some((part) => name.includes(part));
}

/**
 * The type that fits a row: the wished one, one of smaller blocks, at last F16.
 * @throws PlanError `row-does-not-fit` where llama-quantize knows no replacement either
 */
export function fitType(name: string, row: number, type: BlockTypeName): BlockTypeName {
  const wished = blockType(type);
  if (row % wished.values === 0) return type;
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

  constructor(mix: Mix, facts: ModelFacts, candidates: readonly Candidate[]) {
    this.#mix = mix;
    this.#facts = facts;
    this.#values = candidates.filter(({ name }) => categoryOf(name) === "attention_v").length;
    this.#tied = candidates.every(({ name }) => categoryOf(name) !== "output");
  }

  /** The mix's type for a tensor, before its shape is looked at. */
  type(candidate: Candidate): BlockTypeName {
    const mix = this.#mix;
    const category = categoryOf(candidate.name);
    if (category === "output" || (category === "embedding" && this.#tied)) {
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

function compile(
  overrides: readonly TensorType[],
): { regex: RegExp; type: BlockTypeName; pattern: string }[] {
  return overrides.map(({ pattern, type }) => {
    try {
      return { regex: new RegExp(pattern.toLowerCase()), type, pattern };
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
  });
}

/**
 * The type of every tensor as llama-quantize (llama.cpp v0.5.0) chooses it, in the order given.
 *
 * Where llama-quantize passes over them in silence, two mistakes are errors here: an override under a mix
 * that does not quantize, and an override whose pattern finds no tensor that may be quantized.
 *
 * @throws PlanError `overrides-need-quantizing`, `bad-pattern`, `pattern-finds-nothing`,
 * `importance-required`, `row-does-not-fit`
 */
export function assignTypes(
  candidates: readonly Candidate[],
  mix: Mix,
  facts: ModelFacts,
  overrides: readonly TensorType[] = [],
): readonly BlockTypeName[] {
  const quantizes = !NUMBER_TYPES.has(mix.type);
  if (!quantizes && overrides.length > 0) {
    throw new PlanError(
      "overrides-need-quantizing",
      `types for single tensors go with a mix that quantizes, and ${mix.name} does not`,
      { exitCode: 2, advice: "Leave the overrides out, or choose a quantizing mix." },
    );
  }
  const patterns = compile(overrides);
  const unused = new Set(patterns);
  const assignment = new Assignment(mix, facts, candidates);
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
    const wished = matches[0]?.type ?? assignment.type(candidate);
    const type = fitType(candidate.name, candidate.ne[0] ?? 0, wished);
    if (needsImportance(candidate.name, type, mix) && !facts.importance) {
      throw new PlanError(
        "importance-required",
        `${mix.name} puts ${type} on tensor ${candidate.name}, which gives garbage without an importance matrix`,
        { exitCode: 2, advice: "Give an importance matrix, or choose a mix of more bits." },
      );
    }
    types.set(candidate.name, type);
  }
  const [stray] = unused;
  if (stray !== undefined) {
    throw new PlanError(
      "pattern-finds-nothing",
      `the tensor pattern ${JSON.stringify(stray.pattern)} finds no tensor that may be quantized`,
      {
        exitCode: 2,
        advice: "Patterns are regular expressions over GGUF names such as blk.3.ffn_down.weight.",
      },
    );
  }
  return candidates.map(({ name, kept }) => types.get(name) ?? kept);
}

function needsImportance(name: string, type: BlockTypeName, mix: Mix): boolean {
  const category = categoryOf(name);
  if (category === "output" || category === "embedding") return false;
  return blockType(type).needsImportance || (type === "Q2_K" && mix.name === "Q2_K_S");
}
