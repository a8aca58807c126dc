import { dirname, isAbsolute, join } from "node:path";
import type { Method } from "../blocks/types.js";
import type { ConvertRequest, TypeNames } from "./convert.js";
import { RECIPE_KEYS, recipeSchema, TENSOR_KEYS } from "./recipe-schema.js";
import { parseYaml, readYaml, type YamlForm } from "./yaml.js";
import type { BalanceChoice } from "./balance.js";

const FORM: YamlForm<Parsed> = {
  noun: "recipe",
  schema: recipeSchema,
  minimum: "recipe: 1 and mix: with the name of a mix",
  keys: (path) => (path.length === 0 ? RECIPE_KEYS : TENSOR_KEYS),
};

type Parsed = ReturnType<typeof recipeSchema.parse>;

/** What a recipe says, checked. */
export interface Recipe {
  /** Stands in the name of the file in place of the mix's. */
  readonly name: string | undefined;
  readonly mix: string;
  /** Path of an importance matrix, as seen from the working folder. */
  readonly imatrix: string | undefined;
  readonly typeNames: TypeNames;
  /** Path of a plan, as seen from the working folder. */
  readonly plan: string | undefined;
  readonly method: Method | undefined;
  readonly balance: BalanceChoice | undefined;
  readonly keepUnusedKv: boolean;
  readonly keepSplit: boolean;
}

/** What of a request a recipe can decide. */
type RecipeOptions = Required<
  Pick<
    ConvertRequest,
    "types" | "name" | "imatrix" | "typeNames" | "method" | "balance" | "keepUnusedKv" | "keepSplit"
  >
>;

/** What is asked for beside a recipe; what is left out the recipe decides. */
export type BesideRecipe = Pick<
  ConvertRequest,
  "imatrix" | "method" | "balance" | "keepUnusedKv" | "keepSplit" | "splitMaxBytes"
> & { readonly typeNames: TypeNames };

/**
 * Reads a recipe.
 *
 * @throws PipelineError `no-recipe` when the file cannot be read, `bad-recipe` when it is no recipe
 */
export async function readRecipe(path: string): Promise<Recipe> {
  return recipeOf(await readYaml(path, FORM), path);
}

/**
 * The recipe in a text.
 *
 * @param path of the file that it comes from: for messages, and for paths that are relative to it
 * @throws PipelineError `bad-recipe`
 */
export function parseRecipe(text: string, path: string): Recipe {
  return recipeOf(parseYaml(text, path, FORM), path);
}

function recipeOf(parsed: Parsed, path: string): Recipe {
  const { mix, name, pure = false, output, embedding, per_layer_embedding: perLayerEmbedding } = parsed;
  const {
    tensors = [],
    fallback = "near",
    imatrix,
    plan,
    method,
    balance,
    keep_unused_kv,
    keep_split,
  } = parsed;
  return {
    name,
    mix,
    imatrix: beside(path, imatrix),
    plan: beside(path, plan),
    typeNames: {
      tensorTypes: tensors.map(({ match, type }, index) => ({
        pattern: match,
        type,
        where: `${path}: tensors[${index}].match`,
      })),
      output,
      embedding,
      perLayerEmbedding,
      pure,
      fallback,
    },
    method,
    balance,
    keepUnusedKv: keep_unused_kv ?? false,
    keepSplit: keep_split ?? false,
  };
}

function beside(recipe: string, path: string | undefined): string | undefined {
  return path === undefined || isAbsolute(path) ? path : join(dirname(recipe), path);
}

/**
 * A recipe together with what is asked for beside it. What is given beside goes before what the recipe says:
 * patterns stand in front of its patterns, and a bound for split files takes the place of the source's split.
 */
export function withRecipe(recipe: Recipe, beside: BesideRecipe): RecipeOptions {
  const ours = recipe.typeNames;
  const theirs = beside.typeNames;
  return {
    types: [recipe.mix],
    name: recipe.name,
    imatrix: beside.imatrix ?? recipe.imatrix,
    method: beside.method ?? recipe.method,
    balance: beside.balance ?? recipe.balance,
    typeNames: {
      tensorTypes: [...(theirs.tensorTypes ?? []), ...(ours.tensorTypes ?? [])],
      output: theirs.output ?? ours.output,
      embedding: theirs.embedding ?? ours.embedding,
      perLayerEmbedding: theirs.perLayerEmbedding ?? ours.perLayerEmbedding,
      pure: theirs.pure === true || ours.pure === true,
      fallback: theirs.fallback ?? ours.fallback,
    },
    keepUnusedKv: beside.keepUnusedKv || recipe.keepUnusedKv,
    keepSplit: beside.keepSplit === true || (recipe.keepSplit && beside.splitMaxBytes === undefined),
  };
}
