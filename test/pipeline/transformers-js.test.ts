import { join } from "node:path";
import { AutoModelForCausalLM, AutoTokenizer, env, Tensor } from "@huggingface/transformers";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { startOnnxEngine } from "../../src/engines/onnx/engine.js";
import type { OnnxEngine } from "../../src/engines/onnx/types.js";
import type { DtypeName } from "../../src/plan/onnx/dtypes.js";
import { type CheckpointOptions, makeCheckpoint } from "../support/checkpoints.js";
import { nanoCheckpoint, scratchFolder } from "../support/convert.js";
import { forward } from "../support/forward/forward.js";
import { readTextModel, type TextModel, withWeights } from "../support/forward/model.js";
import { exportPackage, graphPaths, nanoPackage, storedModel } from "../support/packages.js";
import { trainedSpread } from "../support/text-models.js";

env.allowRemoteModels = false;
env.useFSCache = false;
env.useBrowserCache = false;

const PROMPT = "The river";
const STEPS = 16;
const VOCABULARY = 1024;
/** Ten times what single precision moves a logit by. */
const MARGIN = 1e-3;
/** The same for halves. */
const HALF_MARGIN = 0.1;

type Model = Awaited<ReturnType<typeof AutoModelForCausalLM.from_pretrained>>;

let engine: OnnxEngine;
let folder = "";
let nano: TextModel;

beforeAll(async () => {
  nano = await readTextModel(nanoCheckpoint);
  folder = await nanoPackage();
  engine = await startOnnxEngine();
});
afterAll(() => engine.close());

const load = (path: string, dtype?: DtypeName): Promise<Model> =>
  AutoModelForCausalLM.from_pretrained(path, dtype === undefined ? {} : { dtype });

function int64(rows: readonly (readonly number[])[]): Tensor {
  return new Tensor("int64", BigInt64Array.from(rows.flat(), BigInt), [rows.length, rows[0]!.length]);
}

/** Tokens after each prompt of a batch; prompts of one length, or padded on the left with a mask. */
async function generated(
  model: Model,
  ids: readonly (readonly number[])[],
  mask: readonly (readonly number[])[] = ids.map((row) => row.map(() => 1)),
): Promise<number[][]> {
  const output = (await model.generate({
    input_ids: int64(ids),
    attention_mask: int64(mask),
    max_new_tokens: STEPS,
    do_sample: false,
  })) as Tensor;
  return (output.tolist() as bigint[][]).map((row) => row.slice(ids[0]!.length).map(Number));
}

/** The same by our own engine. */
async function ours(
  { embed, decoder }: ReturnType<typeof graphPaths>,
  prompt: readonly number[],
): Promise<number[]> {
  const open = async (model: string): Promise<number> => (await engine.open({ model, threads: 1 })).session;
  const sessions = { embed: await open(embed), decoder: await open(decoder) };
  const { tokens } = await engine.generate({
    ...sessions,
    prompt: Int32Array.from(prompt),
    steps: STEPS,
    choose: "greedy",
  });
  for (const session of Object.values(sessions)) await engine.close(session);
  return [...tokens];
}

/**
 * Where a plain forward pass over a text would have chosen another token than the one that is there. Logits that lie
 * closer together than a margin are left out: which of them is the largest depends on the order of the sums.
 */
function otherChoices(
  model: TextModel,
  prompt: readonly number[],
  tokens: readonly number[],
  margin: number,
): number[] {
  const logits = forward(model, Int32Array.from([...prompt, ...tokens]));
  return [...tokens.keys()].filter((at) => {
    const row = (prompt.length + at - 1) * VOCABULARY;
    const own = logits[row + tokens[at]!]!;
    return logits.subarray(row, row + VOCABULARY).some((logit) => logit > own + margin);
  });
}

describe("transformers.js", () => {
  let tokenizer: Awaited<ReturnType<typeof AutoTokenizer.from_pretrained>>;
  let prompt: number[] = [];

  beforeAll(async () => {
    tokenizer = await AutoTokenizer.from_pretrained(folder);
    prompt = tokenizer.encode(PROMPT);
  });

  it("reads the tokenizer of a package", () => {
    expect(prompt[0]).toBe(2);
    expect(tokenizer.decode(prompt, { skip_special_tokens: true })).toBe(PROMPT);
    const chat = tokenizer.apply_chat_template([{ role: "user", content: "Hello" }], { tokenize: false });
    expect(chat).toBe("<bos><|turn>user\nHello<turn|>\n");
  });

  it.each([
    ["fp32", MARGIN],
    ["q8", MARGIN],
    ["q4", MARGIN],
    ["q2", MARGIN],
    ["q4f16", HALF_MARGIN],
  ] as const)(
    "generates in %s what our own engine does, and a forward pass with the stored weights",
    async (dtype, margin) => {
      const model = await load(folder, dtype);
      const [tokens = []] = await generated(model, [prompt]);
      await model.dispose();
      expect(tokens).toHaveLength(STEPS);
      expect(tokens).toEqual(await ours(graphPaths(folder, dtype), prompt));
      const stored = withWeights(nano, await storedModel(folder, dtype));
      expect(otherChoices(stored, prompt, tokens, margin)).toEqual([]);
    },
  );

  it("sees no padding on the left of the shorter one of two prompts", async () => {
    tokenizer.padding_side = "left";
    const prompts = ["One", "The river runs through the valley"];
    const inputs = tokenizer(prompts, { padding: true }) as Record<"input_ids" | "attention_mask", Tensor>;
    const [ids, mask] = [inputs.input_ids, inputs.attention_mask].map((tensor) =>
      (tensor.tolist() as bigint[][]).map((row) => row.map(Number)),
    );
    expect(mask![0]!.slice(0, 2)).toEqual([0, 0]);
    expect(mask![1]).not.toContain(0);
    for (const dtype of ["fp32", "q4"] as const) {
      const model = await load(folder, dtype);
      const batch = await generated(model, ids!, mask);
      for (const [index, text] of prompts.entries()) {
        const [alone] = await generated(model, [tokenizer.encode(text)]);
        expect(batch[index]).toEqual(alone);
      }
      await model.dispose();
    }
  });

  it("loads a package of two dtypes, one for each graph, by what config.json says", async () => {
    const out = scratchFolder();
    await exportPackage({ out, dtypes: ["decoder_model_merged=q8", "embed_tokens=q4"], method: "nearest" });
    const model = await load(out);
    const [tokens] = await generated(model, [prompt]);
    await model.dispose();
    const { embed } = graphPaths(out, "q4");
    const { decoder } = graphPaths(out, "q8");
    expect(tokens).toEqual(await ours({ embed, decoder }, prompt));
  });
});

describe("transformers.js loads the package of", () => {
  // Without the tokens of images and sounds in its config.json.
  const placeless = { image_token_id: undefined, audio_token_id: undefined, video_token_id: undefined };
  const kinds: readonly (readonly [string, CheckpointOptions])[] = [
    ["a text-only re-save", { kind: "e", form: "text" }],
    ["the unified form, of a model that knows no images", { kind: "unified", root: placeless }],
    ["a mixture of experts", { kind: "moe" }],
  ];

  it.each(kinds)("%s", async (_what, options) => {
    const source = join(scratchFolder(), "random-it");
    await makeCheckpoint(source, { ...options, spread: trainedSpread });
    const out = scratchFolder();
    await exportPackage({ source, out, dtypes: ["q8"], method: "nearest" });
    const tokenizer = await AutoTokenizer.from_pretrained(out);
    const prompt = tokenizer.encode(PROMPT);
    const model = await load(out);
    const [tokens] = await generated(model, [prompt]);
    await model.dispose();
    expect(tokens).toEqual(await ours(graphPaths(out, "q8"), prompt));
  });
});
