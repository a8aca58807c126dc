import { Flags } from "@oclif/core";
import { LapidaryError } from "../base/errors.js";
import type { ConvertRequest } from "../pipeline/convert.js";

const TYPE = "TYPE";

/** A list of names in one flag value, separated by commas. */
function list(text: string, flag: string): string[] {
  const names = text.split(",").map((name) => name.trim());
  if (names.includes("")) {
    throw new LapidaryError(
      "bad-flag",
      `--${flag} ${text}: an empty name in the list; expected names separated by commas.`,
      {
        exitCode: 2,
      },
    );
  }
  return names;
}

/** `ffn_down=Q6_K`: everything behind the last equals sign is the type. */
function tensorType(text: string): { pattern: string; type: string } {
  const at = text.lastIndexOf("=");
  const pattern = text.slice(0, Math.max(at, 0));
  const type = text.slice(at + 1);
  if (at < 1 || type === "") {
    throw new LapidaryError(
      "bad-flag",
      `--tensor-type ${text}: expected a regular expression and a type, such as ffn_down=Q6_K.`,
      { exitCode: 2 },
    );
  }
  return { pattern, type };
}

/**
 * Flags of every command that chooses types: mixes or a recipe, what stands in front of a mix's rules, and the
 * importance.
 *
 * @param ways flags that say what is to be written, of which a command takes one; empty where the command sees to that
 */
export function typeFlags(ways: string[] = ["type", "recipe", "plan"]) {
  return {
    type: Flags.custom<string[]>({
      description:
        "mixes to write, in any case, such as Q4_K_M; F32, F16, BF16 and every mix of llama-quantize; this or --recipe is required for GGUF",
      helpValue: "TYPE[,TYPE…]",
      exactlyOne: ways,
      parse: async (text) => list(text, "type"),
    })(),
    recipe: Flags.string({
      description:
        "YAML file that names a mix and the types that differ from it, in place of --type; other flags have precedence over what it says",
      helpValue: "FILE",
      exactlyOne: ways,
    }),
    plan: Flags.string({
      description:
        "YAML file that names a type for every weight, in place of --type or --dtype; other flags have precedence over what it says",
      helpValue: "FILE",
      exactlyOne: ways,
    }),
    imatrix: Flags.string({
      description: "importance matrix of llama-imatrix (GGUF or .dat), by which rounding errors are weighted",
      helpValue: "FILE",
    }),
    method: Flags.option({
      description:
        "how values find their places in blocks: by a search for the least Σ importance · error²; with the errors of some made up for by others (gptq), which needs --statistics; for GGUF also byte for byte as llama-quantize (ggml), for ONNX also by rounding to the nearest",
      options: ["gptq", "search", "ggml", "nearest"] as const,
      // No default: a recipe has a say where the flag is not given.
      defaultHelp: async () => "search, with statistics gptq",
    })(),
    statistics: Flags.string({
      description:
        "folder that calibrate has made: what matrices are rounded by, and the importance of columns",
      helpValue: "DIR",
    }),
    effort: Flags.integer({
      description: "gptq: 0 feedback alone, 1 scales are fitted again, 2 codes too",
      min: 0,
      max: 2,
      defaultHelp: async () => "2",
    }),
    sequential: Flags.boolean({
      description:
        "gptq: round each layer by what the rounded layers before it give; runs the text once more",
    }),
    balance: Flags.option({
      description:
        "scale channels by powers of two before they are rounded, and back where they are read, where that leaves clearly less of the errors; the model computes the same",
      options: ["auto", "off"] as const,
      // No default: a recipe has a say where the flag is not given.
      defaultHelp: async () => "auto; off with --method ggml",
    })(),
    "keep-lattice": Flags.boolean({
      description:
        "write tensors that were trained for 4 bits as they are, in Q4_0, where the mix has 4 bits or more for them; on unless --method ggml is given",
      allowNo: true,
    }),
    "tensor-type": Flags.custom<{ pattern: string; type: string }>({
      description:
        "type for the tensors whose name a regular expression finds; may be given several times, the first that finds a tensor wins",
      helpValue: "REGEX=TYPE",
      multiple: true,
      parse: async (text) => tensorType(text),
    })(),
    "output-type": Flags.string({
      description: "type of the output matrix, or of the embeddings of a model without one",
      helpValue: TYPE,
    }),
    "embedding-type": Flags.string({ description: "type of the embedding tables", helpValue: TYPE }),
    "ple-type": Flags.string({
      description: "type of the table of per-layer embeddings (E2B, E4B)",
      helpValue: TYPE,
    }),
    pure: Flags.boolean({ description: "give every tensor the mix's own type, without its rules" }),
    fallback: Flags.option({
      description:
        "what replaces a type whose blocks do not divide a row: llama-quantize's choice, or the fewest bits not below the wish",
      options: ["stock", "near"] as const,
      // No default: a recipe has a say where the flag is not given.
      defaultHelp: async () => "stock; near with a recipe",
    })(),
  };
}

interface TypeValues {
  readonly type: readonly string[] | undefined;
  readonly recipe: string | undefined;
  readonly plan: string | undefined;
  readonly imatrix: string | undefined;
  readonly method: "gptq" | "search" | "ggml" | "nearest" | undefined;
  readonly statistics: string | undefined;
  readonly effort: number | undefined;
  readonly sequential: boolean;
  readonly balance: "auto" | "off" | undefined;
  /** Undefined where the flag was not given, whatever oclif's type says. */
  readonly "keep-lattice": boolean | undefined;
  readonly "tensor-type": readonly { readonly pattern: string; readonly type: string }[] | undefined;
  readonly "output-type": string | undefined;
  readonly "embedding-type": string | undefined;
  readonly "ple-type": string | undefined;
  readonly pure: boolean;
  readonly fallback: "stock" | "near" | undefined;
  readonly "keep-unused-kv": boolean;
  readonly "keep-split": boolean;
  readonly "split-max-size": number | undefined;
}

/**
 * How matrices are rounded with feedback; undefined where they are not.
 *
 * @throws LapidaryError for flags that need one another
 */
function feedbackOf({ method, statistics, effort, sequential }: TypeValues): ConvertRequest["feedback"] {
  if (statistics !== undefined && (method === undefined || method === "gptq")) {
    return { statistics, effort: (effort ?? 2) as 0 | 1 | 2, sequential };
  }
  const lonely = sequential ? "--sequential" : effort === undefined ? undefined : "--effort";
  if (method !== "gptq" && lonely === undefined && statistics === undefined) return undefined;
  if (method === "gptq" || lonely !== undefined) {
    throw new LapidaryError(
      "bad-flag",
      `${method === "gptq" ? "--method gptq" : lonely} needs --statistics, the folder that calibrate has made${method === "gptq" || method === undefined ? "" : ", and --method gptq"}.`,
      { exitCode: 2 },
    );
  }
  return undefined;
}

type TypeOptions = Pick<
  ConvertRequest,
  | "types"
  | "name"
  | "plan"
  | "feedback"
  | "imatrix"
  | "method"
  | "balance"
  | "keepLattice"
  | "typeNames"
  | "keepUnusedKv"
  | "keepSplit"
>;

/**
 * What the pipeline calls the values of `typeFlags`, and of the other flags that a recipe has a say in.
 *
 * @throws PipelineError when the recipe is none
 */
export async function typeOptions(flags: TypeValues): Promise<TypeOptions> {
  if (flags.method === "nearest") {
    throw new LapidaryError(
      "bad-flag",
      "--method nearest: GGUF has no such method; expected search or ggml.",
      {
        exitCode: 2,
      },
    );
  }
  const options = {
    imatrix: flags.imatrix,
    method: flags.method === "gptq" ? "search" : flags.method,
    feedback: feedbackOf(flags),
    balance: flags.balance,
    keepLattice: flags["keep-lattice"],
    typeNames: {
      tensorTypes: flags["tensor-type"] ?? [],
      output: flags["output-type"],
      embedding: flags["embedding-type"],
      perLayerEmbedding: flags["ple-type"],
      pure: flags.pure,
      fallback: flags.fallback,
    },
    keepUnusedKv: flags["keep-unused-kv"],
    keepSplit: flags["keep-split"],
  };
  // The parser and the schema take 0.2 s to load.
  if (flags.plan !== undefined) {
    const { readPlan, withPlanFile } = await import("../pipeline/plan-file.js");
    return withPlanFile(await readPlan(flags.plan), options);
  }
  if (flags.recipe === undefined) return { ...options, types: flags.type ?? [] };
  const { readRecipe, withRecipe } = await import("../pipeline/recipe.js");
  const recipe = await readRecipe(flags.recipe);
  const ofRecipe = {
    ...withRecipe(recipe, { ...options, splitMaxBytes: flags["split-max-size"] }),
    keepLattice: options.keepLattice,
  };
  if (recipe.plan === undefined) return ofRecipe;
  const { readPlan } = await import("../pipeline/plan-file.js");
  return { ...ofRecipe, plan: await readPlan(recipe.plan) };
}
