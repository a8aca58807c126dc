import { z } from "zod";
import { LapidaryError } from "../base/errors.js";
import { nearest } from "../base/nearest.js";
import { blockTypes, findBlockType } from "../blocks/table.js";
import { tensorPattern } from "../plan/assign.js";
import { findMix, MIX_ALIASES, MIX_NAMES } from "../plan/mixes.js";
import { expected, shown } from "./shown.js";

/** Raised when a key changes its meaning or goes away; new keys do not raise it. */
const RECIPE_VERSION = 1;

/** Most characters of a file's name on common file systems are 255; the model's name and an ending need room. */
const MAX_NAME = 100;

/** The longest name of a tensor in GGUF has 64 characters; Node aborts when it compiles some of 100,000. */
const MAX_PATTERN = 1000;

/** Types that weights can have: whole numbers and F64 are for other tensors. */
const TYPE_NAMES: readonly string[] = blockTypes
  .map(({ name }) => name)
  .filter((name) => !/^(?:I\d+|F64)$/.test(name));

/** Any case of some names, for editors: JSON Schema's expressions know no flag for it. */
function inAnyCase(names: readonly string[]): string {
  const parts = names.map((name) =>
    name.replaceAll(/[A-Z]/g, (letter) => `[${letter}${letter.toLowerCase()}]`),
  );
  return `^(?:${parts.join("|")})$`;
}

/** What editors offer, and what they accept besides. */
function offered(names: readonly string[]) {
  return { anyOf: [{ enum: names }, { pattern: inAnyCase(names) }] };
}

export const mixName = z
  .string(expected("the name of a mix"))
  .superRefine((name, context) => {
    try {
      findMix(name);
    } catch (error) {
      if (!(error instanceof LapidaryError)) throw error;
      const message = `there is no mix called ${shown(name)}`;
      context.addIssue({ code: "custom", message, params: { advice: error.advice } });
    }
  })
  .meta({ id: "mix", ...offered([...MIX_NAMES, ...MIX_ALIASES.keys()]) });

export const typeName = z
  .string(expected("the name of a type"))
  .superRefine((name, context) => {
    const known = findBlockType(name)?.name;
    if (known !== undefined && TYPE_NAMES.includes(known)) return;
    const near = nearest(name, TYPE_NAMES);
    const advice = near === undefined ? `Use one of ${TYPE_NAMES.join(", ")}.` : `Did you mean ${near}?`;
    const message =
      known === undefined ? `there is no type called ${shown(name)}` : `${known} is not a type for weights`;
    context.addIssue({ code: "custom", message, params: { advice } });
  })
  .meta({ id: "type", ...offered(TYPE_NAMES) });

const pattern = z
  .string(expected("a regular expression"))
  .min(1, { error: "an empty expression finds every tensor; write .* if that is meant" })
  .max(MAX_PATTERN, { error: `expected at most ${MAX_PATTERN} characters`, abort: true })
  .superRefine((text, context) => {
    const refuse = (message: string): void => context.addIssue({ code: "custom", message });
    try {
      tensorPattern(text);
    } catch (error) {
      if (!(error instanceof LapidaryError)) throw error;
      const reason = error.cause instanceof Error ? `: ${error.cause.message}` : "";
      refuse(`${shown(text)} is no regular expression${reason}`);
      return;
    }
    // Patterns are read in lower case, as llama-quantize reads them, which turns these classes into their opposites.
    const inverted = /(?<!\\)(?:\\\\)*(\\[BDPSW])/.exec(text)?.[1];
    if (inverted !== undefined) {
      refuse(`patterns are read in lower case, where ${inverted} means ${inverted.toLowerCase()}`);
    }
  });

export const fileName = z
  .string(expected("text in quotes"))
  .regex(/^[A-Za-z0-9._-]+$/, { error: "expected letters, digits, dots, underscores and hyphens only" })
  .max(MAX_NAME, { error: `expected at most ${MAX_NAME} characters` })
  // llama.cpp would look for the other parts.
  .regex(/^(?!.*-\d{5}-of-\d{5}$)/, { error: "expected a name that is not that of a part of a split file" });

const path = z
  .string(expected("a path"))
  .min(1, { error: "expected a path, found an empty one" })
  .regex(/^[^\0]*$/, { error: "expected a path, which has no NUL characters" });

const flag = z.boolean(expected("true or false"));

const tensorType = z.strictObject(
  {
    match: pattern.meta({
      description:
        "Regular expression over GGUF names such as blk.3.ffn_down.weight, read in lower case. It finds a tensor wherever it fits into its name.",
    }),
    type: typeName.meta({ description: "Type for the tensors that the expression finds." }),
  },
  expected("a map of match and type"),
);

/** What a recipe has to be; an unknown key is an error. */
export const recipeSchema = z
  .strictObject(
    {
      recipe: z
        .literal(RECIPE_VERSION, expected(`version ${RECIPE_VERSION}`))
        .meta({ description: "Version of this format." }),
      name: fileName.optional().meta({
        description: "Stands in the name of the file that is written, in place of the mix's name.",
      }),
      mix: mixName.meta({
        description:
          "Mix of llama-quantize whose rules give a type to every tensor that nothing below names.",
      }),
      pure: flag
        .optional()
        .meta({ description: "Give every tensor the mix's own type, without its rules.", default: false }),
      output: typeName.optional().meta({
        description: "Type of the output matrix, or of the embeddings of a model without one.",
      }),
      embedding: typeName.optional().meta({ description: "Type of the embedding tables." }),
      per_layer_embedding: typeName
        .optional()
        .meta({ description: "Type of the table of per-layer embeddings (E2B, E4B)." }),
      tensors: z.array(tensorType, expected("a list of match and type")).optional().meta({
        description:
          "Types for single tensors. The first expression that finds a tensor decides; one that finds none is an error.",
      }),
      fallback: z.enum(["near", "stock"], expected("near or stock")).optional().meta({
        description:
          "What replaces a type whose blocks do not divide a row. near: the fewest bits not below the wish; stock: llama-quantize's choice.",
        default: "near",
      }),
      method: z.enum(["search", "ggml"], expected("search or ggml")).optional().meta({
        description:
          "How values find their places in blocks. search: the least sum of importance × squared error that is found; ggml: byte for byte as llama-quantize.",
        default: "search",
      }),
      balance: z.enum(["auto", "off"], expected("auto or off")).optional().meta({
        description:
          "Whether channels are scaled by powers of two before they are rounded, and back where they are read. auto: where that leaves clearly less of the errors, but not with the method ggml.",
        default: "auto",
      }),
      plan: path.optional().meta({
        description:
          "Plan that gives a type to every tensor that nothing above names, in place of the mix's rules; a relative path starts at the recipe's folder.",
      }),
      imatrix: path.optional().meta({
        description:
          "Importance matrix of llama-imatrix (GGUF or .dat); a relative path starts at the recipe's folder.",
      }),
      keep_unused_kv: flag
        .optional()
        .meta({ description: "Keep keys and values that shared layers never use.", default: false }),
      keep_split: flag.optional().meta({
        description: "Write as many files as the source has, with the same tensors.",
        default: false,
      }),
    },
    expected("a map of keys such as recipe and mix"),
  )
  .meta({
    title: "Recipe of lapidary",
    description: "Which type each tensor of a model is rounded to.",
  });

/** Keys at a place of a recipe, `tensors[].match` apart from those of the whole. */
export const RECIPE_KEYS: readonly string[] = Object.keys(recipeSchema.shape);
/** Keys of an entry of `tensors`. */
export const TENSOR_KEYS: readonly string[] = Object.keys(tensorType.shape);

/** The schema as text of a JSON Schema, for editors. */
export function recipeJsonSchema(): string {
  // Draft 7 is the one that every editor knows.
  const schema = z.toJSONSchema(recipeSchema, { target: "draft-07", io: "input" });
  return `${JSON.stringify(schema, null, 2)}\n`;
}
