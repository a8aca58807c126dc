import type { BlockTypeName } from "../blocks/types.js";
import { nearest } from "../base/nearest.js";
import { PlanError } from "./errors.js";

/** What a rule may know of the model besides the tensor itself. */
export interface ModelFacts {
  /** Number of layers. */
  readonly layers: number;
  /** Number of experts; 0 for a dense model. */
  readonly experts: number;
  /** Query heads for one key head in layer 0, rounded down. */
  readonly headsPerKey: number;
  /** Whether an importance matrix is at hand. */
  readonly importance: boolean;
}

/** Where a tensor stands among those of its category. */
export interface Place {
  /** Running number in the category; for feed-forward tensors of a mixture of experts the layer number. */
  readonly index: number;
  /** Running number in the category, whatever the model. */
  readonly counter: number;
  /** Attention values: how many there are; feed-forward tensors: number of layers. */
  readonly count: number;
  readonly model: ModelFacts;
}

/** A type, the places it is chosen for, and whether only with or only without an importance matrix. */
type Choice = readonly [BlockTypeName, (place: Place) => boolean, ("with" | "without")?];

/** First choice that applies wins; none: the mix's default type. */
type Rule = readonly Choice[];

/** Categories of tensors that a rule can be for; every other tensor takes the default type. */
export type RuledCategory =
  | "attention_q"
  | "attention_k"
  | "attention_v"
  | "attention_output"
  | "ffn_down"
  | "ffn_gate"
  | "ffn_up";

/** A mix of llama-quantize: which type each tensor gets. */
export interface Mix {
  readonly name: string;
  /** `general.file_type` of the result. */
  readonly fileType: number;
  /** Type of every tensor that no rule names. */
  readonly type: BlockTypeName;
  /** Output matrix, and embeddings of a model without one (every released Gemma 4). */
  readonly output: BlockTypeName;
  /** Embeddings of a model with an output matrix of its own; the default type when left out. */
  readonly untied?: BlockTypeName;
  readonly rules: Readonly<Partial<Record<RuledCategory, Rule>>>;
  /** Type of tensors with three dimensions (stacked experts), in front of all rules. */
  readonly experts?: BlockTypeName;
  /** With exactly eight experts the attention output takes Q5_K. */
  readonly eightExpertOutput?: true;
  /** Type of attn_k with exactly eight experts; attn_v takes it too where it is Q8_0. */
  readonly eightExpertKeys: "Q4_K" | "Q8_0";
}

const always = (): boolean => true;
const grouped = ({ model }: Place): boolean => model.headsPerKey >= 4;
const before =
  (limit: number) =>
  ({ index }: Place): boolean =>
    index < limit;
const firstPart =
  (part: number) =>
  ({ index, count }: Place): boolean =>
    index < Math.floor(count / part);
const firstEighth = firstPart(8);
const moreBits = ({ index, count }: Place): boolean => {
  const eighth = Math.floor(count / 8);
  return index < eighth || index >= Math.floor((7 * count) / 8) || (index - eighth) % 3 === 2;
};
const middle = ({ index, count }: Place): boolean =>
  index >= Math.floor(count / 8) && index < Math.floor((7 * count) / 8);

interface Options {
  readonly rules?: Mix["rules"];
  readonly output?: BlockTypeName;
  readonly untied?: BlockTypeName;
  readonly experts?: BlockTypeName;
  readonly eightExpertOutput?: true;
  readonly eightExpertKeys?: "Q4_K";
}

function mix(name: string, fileType: number, type: BlockTypeName, options: Options = {}): Mix {
  return {
    name,
    fileType,
    type,
    output: type === "Q8_0" ? "Q8_0" : "Q6_K",
    rules: {},
    eightExpertKeys: "Q8_0",
    ...options,
  };
}

/** The mixes of about two bits share their special cases. */
function twoBit(
  name: string,
  fileType: number,
  type: BlockTypeName,
  better: "Q2_K" | "IQ3_S",
  attentionOutput?: BlockTypeName,
): Mix {
  return mix(name, fileType, type, {
    output: "Q5_K",
    untied: better,
    eightExpertOutput: true,
    eightExpertKeys: "Q4_K",
    rules: {
      attention_v: [
        ["Q4_K", (place) => grouped(place) || place.model.experts >= 4],
        [better, always],
      ],
      ffn_down: [[better, ({ counter, count }) => counter < Math.floor(count / 8)]],
      ...(attentionOutput === undefined ? {} : { attention_output: [[attentionOutput, always]] }),
    },
  });
}

const eightExpertOutput = true;

/**
 * Every mix of llama.cpp v0.5.0's llama-quantize, as data. The functions in a rule look at a tensor's
 * place only, so all types that a mix can ask for are in this table.
 */
export const MIXES: readonly Mix[] = [
  mix("F32", 0, "F32"),
  mix("F16", 1, "F16"),
  mix("BF16", 32, "BF16"),
  mix("Q8_0", 7, "Q8_0"),
  mix("Q6_K", 18, "Q6_K"),
  mix("Q5_1", 9, "Q5_1"),
  mix("Q5_0", 8, "Q5_0", { rules: { ffn_down: [["Q5_1", firstEighth, "with"]] } }),
  mix("Q5_K_M", 17, "Q5_K", {
    rules: { attention_v: [["Q6_K", moreBits]], ffn_down: [["Q6_K", moreBits]] },
  }),
  mix("Q5_K_S", 16, "Q5_K"),
  mix("Q4_K_M", 15, "Q4_K", {
    eightExpertOutput,
    rules: { attention_v: [["Q6_K", moreBits]], ffn_down: [["Q6_K", moreBits]] },
  }),
  mix("Q4_K_S", 14, "Q4_K", {
    eightExpertOutput,
    rules: { attention_v: [["Q5_K", before(4)]], ffn_down: [["Q5_K", firstEighth]] },
  }),
  mix("Q4_1", 3, "Q4_1"),
  mix("Q4_0", 2, "Q4_0", { rules: { ffn_down: [["Q4_1", firstEighth, "with"]] } }),
  mix("IQ4_NL", 25, "IQ4_NL", {
    eightExpertOutput,
    rules: {
      attention_v: [["Q5_K", grouped]],
      ffn_down: [["Q5_K", firstEighth, "without"]],
    },
  }),
  mix("IQ4_XS", 30, "IQ4_XS", {
    eightExpertOutput,
    rules: {
      attention_v: [["Q5_K", grouped]],
      ffn_down: [["Q5_K", firstEighth, "without"]],
    },
  }),
  mix("Q3_K_L", 13, "Q3_K", {
    rules: {
      attention_v: [["Q5_K", always]],
      ffn_down: [["Q5_K", always]],
      attention_output: [["Q5_K", always]],
    },
  }),
  mix("Q3_K_M", 12, "Q3_K", {
    eightExpertOutput,
    rules: {
      attention_v: [
        ["Q5_K", before(2)],
        ["Q4_K", always],
      ],
      ffn_down: [
        ["Q5_K", firstPart(16)],
        ["Q4_K", always],
      ],
      attention_output: [["Q4_K", always]],
    },
  }),
  mix("Q3_K_S", 11, "Q3_K", { eightExpertOutput }),
  mix("IQ3_M", 27, "IQ3_S", {
    eightExpertOutput,
    rules: {
      attention_v: [["Q4_K", always]],
      ffn_down: [
        ["Q4_K", firstEighth],
        ["Q4_K", (place) => place.model.experts === 8 && moreBits(place)],
      ],
      attention_output: [["Q4_K", always]],
    },
  }),
  mix("IQ3_S", 26, "IQ3_S", { eightExpertOutput, rules: { attention_v: [["Q4_K", grouped]] } }),
  mix("IQ3_XS", 22, "IQ3_S", {
    eightExpertOutput,
    rules: {
      attention_v: [["Q4_K", grouped]],
      attention_k: [["IQ3_XXS", always]],
      attention_q: [["IQ3_XXS", always]],
      ffn_gate: [["IQ3_XXS", middle]],
      ffn_up: [["IQ3_XXS", middle]],
    },
  }),
  mix("IQ3_XXS", 23, "IQ3_XXS", {
    output: "Q5_K",
    untied: "IQ3_S",
    eightExpertOutput,
    rules: {
      attention_v: [
        ["Q4_K", grouped],
        ["IQ3_S", always, "without"],
      ],
      attention_k: [["IQ2_S", always]],
      attention_q: [["IQ2_S", always]],
      ffn_down: [
        ["Q4_K", firstEighth, "without"],
        ["Q3_K", always, "without"],
      ],
      attention_output: [["IQ3_S", always]],
    },
  }),
  mix("Q2_K", 10, "Q2_K", {
    eightExpertOutput,
    rules: {
      attention_v: [
        ["Q4_K", grouped],
        ["Q3_K", always],
      ],
      ffn_down: [["Q3_K", always]],
      attention_output: [["Q3_K", always]],
    },
  }),
  mix("Q2_K_S", 21, "Q2_K", {
    rules: { attention_v: [["Q4_K", grouped]], ffn_down: [["Q4_K", firstEighth]] },
  }),
  twoBit("IQ2_M", 29, "IQ2_S", "IQ3_S", "IQ3_S"),
  twoBit("IQ2_S", 28, "IQ2_XS", "IQ3_S", "IQ3_S"),
  twoBit("IQ2_XS", 20, "IQ2_XS", "Q2_K"),
  twoBit("IQ2_XXS", 19, "IQ2_XXS", "Q2_K"),
  twoBit("IQ1_M", 31, "IQ1_M", "Q2_K", "IQ2_XXS"),
  twoBit("IQ1_S", 24, "IQ1_S", "Q2_K", "IQ2_XXS"),
  mix("TQ2_0", 37, "TQ2_0", { untied: "Q4_K" }),
  mix("TQ1_0", 36, "TQ1_0", { untied: "Q4_K" }),
  mix("Q2_0", 41, "Q2_0", { untied: "Q4_K" }),
  mix("Q1_0", 40, "Q1_0"),
  // The default of this mix is what its rules fall back on; stacked experts alone take the four-bit type.
  mix("MXFP4_MOE", 38, "Q8_0", { untied: "Q8_0", experts: "MXFP4" }),
];

/** Other names of mixes, as llama-quantize has them. */
export const MIX_ALIASES: ReadonlyMap<string, string> = new Map([
  ["Q3_K", "Q3_K_M"],
  ["Q4_K", "Q4_K_M"],
  ["Q5_K", "Q5_K_M"],
]);

/** The type that a rule gives to a place; undefined when it leaves the mix's default. */
export function choose(rule: Rule | undefined, place: Place): BlockTypeName | undefined {
  return rule?.find(([, when, importance]) => {
    return when(place) && (importance === undefined || (importance === "with") === place.model.importance);
  })?.[0];
}

/** Names of all mixes, in the table's order (most bits first). */
export const MIX_NAMES: readonly string[] = MIXES.map(({ name }) => name);

/**
 * The mix of a name, in any case, aliases included.
 * @throws PlanError `unknown-mix`
 */
export function findMix(name: string): Mix {
  const upper = name.toUpperCase();
  const found = MIXES.find((mix) => mix.name === (MIX_ALIASES.get(upper) ?? upper));
  if (found !== undefined) return found;
  const near = nearest(name, MIX_NAMES);
  throw new PlanError("unknown-mix", `there is no mix called ${JSON.stringify(name)}`, {
    exitCode: 2,
    advice: near === undefined ? `Choose one of ${MIX_NAMES.join(", ")}.` : `Did you mean ${near}?`,
  });
}
