import { z } from "zod";
import { DTYPES } from "../plan/onnx/dtypes.js";
import { fileName, mixName, typeName } from "./recipe-schema.js";
import { expected } from "./shown.js";

/** Raised when a key changes its meaning or goes away; new keys do not raise it. */
export const PLAN_VERSION = 1;

/** Longest name of a weight in a plan. Real: 45 characters. */
const MAX_NAME = 128;

const hash = z.string(expected("a SHA-256")).regex(/^[0-9a-f]{64}$/, {
  error: "expected a SHA-256: 64 digits and letters from a to f",
});
const count = z.int(expected("a whole number")).nonnegative({ error: "expected no negative number" });
const loss = z.number(expected("a number")).nonnegative({ error: "expected no negative number" });

const estimate = {
  bytes: count.meta({ description: "Bytes of all files." }),
  kld: loss.meta({ description: "Estimated KL divergence to the unrounded model, in nats a token." }),
};

/** What is known of a format's column. */
const column = {
  origin: z.enum(["allocation", "mix"], expected("allocation or mix")).optional().meta({
    description: "Whether the budget was divided weight by weight, or a mix is as good and was kept.",
  }),
  budget: z
    .strictObject(
      {
        bytes: count.optional(),
        bitsPerWeight: loss.optional(),
        kld: loss.optional(),
      },
      expected("a map of bytes, bitsPerWeight or kld"),
    )
    .optional()
    .meta({ description: "What was asked for." }),
  estimate: z
    .strictObject(estimate, expected("a map of bytes and kld"))
    .optional()
    .meta({ description: "What it comes to." }),
  compared: z
    .array(
      z.strictObject(
        {
          name: z.string(expected("the name of a mix or a dtype")).max(MAX_NAME),
          ...estimate,
        },
        expected("a map of name, bytes and kld"),
      ),
      expected("a list of name, bytes and kld"),
    )
    .max(64)
    .optional()
    .meta({ description: "Mixes of llama-quantize, or dtypes, that it was compared with." }),
};

const ggufChoice = z.strictObject(
  { type: typeName.meta({ description: "Block type." }) },
  expected("a map with a type"),
);

const onnxChoice = z
  .strictObject(
    {
      bits: z
        .literal([2, 4, 8, 16, 32], expected("2, 4, 8, 16 or 32"))
        .meta({ description: "Bits of a code; 16 and 32 are numbers." }),
      block: z
        .literal([16, 32, 64, 128, 256], expected("16, 32, 64, 128 or 256"))
        .optional()
        .meta({ description: "Codes that share a scale.", default: 32 }),
      zeroPoint: z
        .boolean(expected("true or false"))
        .optional()
        .meta({ description: "Whether blocks have zero points.", default: false }),
    },
    expected("a map with bits"),
  )
  .refine(({ bits, block, zeroPoint }) => bits <= 8 || (block === undefined && zeroPoint === undefined), {
    error: "numbers of 16 and 32 bits have neither blocks nor zero points",
  });

const line = z.strictObject(
  {
    gguf: ggufChoice.optional(),
    onnx: onnxChoice.optional(),
  },
  expected("a map of gguf and onnx"),
);

/** What a plan has to be; an unknown key is an error. */
export const planSchema = z
  .strictObject(
    {
      plan: z
        .literal(PLAN_VERSION, expected(`version ${PLAN_VERSION}`))
        .meta({ description: "Version of this format." }),
      name: fileName.optional().meta({
        description: "Stands in the name of the file that is written, in place of the mix's name.",
      }),
      checkpoint: z
        .array(
          z.strictObject({ file: z.string(expected("a name")).max(255), sha256: hash }, expected("a map")),
          expected("a list of files"),
        )
        .max(1000)
        .optional()
        .meta({
          description:
            "Files of the checkpoint that it was made for. It is not checked: a plan serves other checkpoints of the same shape too.",
        }),
      statistics: z
        .strictObject({ text: hash, windows: count, tokens: count }, expected("a map"))
        .optional()
        .meta({ description: "The text that the estimates were made with." }),
      gguf: z
        .strictObject(
          {
            mix: mixName.meta({
              description:
                "Mix that the file is marked as, and that decides what no line names: keys and values that nothing reads.",
            }),
            ...column,
          },
          expected("a map with a mix"),
        )
        .optional()
        .meta({ description: "What belongs to the column gguf; needed where that is to be written." }),
      onnx: z
        .strictObject(
          {
            dtype: z
              .enum(Object.keys(DTYPES), expected(`one of ${Object.keys(DTYPES).join(", ")}`))
              .meta({ description: "Dtype that names the files and says what the graphs compute in." }),
            ...column,
          },
          expected("a map with a dtype"),
        )
        .optional()
        .meta({ description: "What belongs to the column onnx; needed where that is to be written." }),
      weights: z.record(z.string().max(MAX_NAME), line, expected("a map of weights")).meta({
        description:
          "A line a weight, by its name in the checkpoint without the prefix, such as layers.3.mlp.down_proj.weight.",
      }),
    },
    expected("a map of keys such as plan and weights"),
  )
  .meta({
    title: "Plan of lapidary",
    description: "The type of every weight of a model, for GGUF and for ONNX.",
  });

/** What a plan says. */
export type PlanFile = z.infer<typeof planSchema>;

/** Types of a weight, a column each. */
export type PlanLine = z.infer<typeof line>;

/** Keys at a place of a plan. */
export const PLAN_KEYS: Readonly<
  Record<"root" | "gguf" | "onnx" | "weight" | "typed" | "coded", readonly string[]>
> = {
  root: Object.keys(planSchema.shape),
  gguf: ["mix", ...Object.keys(column)],
  onnx: ["dtype", ...Object.keys(column)],
  weight: Object.keys(line.shape),
  typed: Object.keys(ggufChoice.shape),
  coded: Object.keys(onnxChoice.shape),
};

/** The schema as text of a JSON Schema, for editors. */
export function planJsonSchema(): string {
  // Draft 7 is the one that every editor knows.
  const schema = z.toJSONSchema(planSchema, { target: "draft-07", io: "input" });
  return `${JSON.stringify(schema, null, 2)}\n`;
}
