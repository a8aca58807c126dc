import { rename, writeFile } from "node:fs/promises";
import { basename, dirname, join } from "node:path";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { AutoModelForCausalLM, AutoTokenizer, env, type Tensor } from "@huggingface/transformers";
import { packageRoot } from "../../src/base/paths.js";
import { exportNano, serve, type Served } from "../support/browser-example.js";
import { Chromium } from "../support/chromium.js";

/** File for a picture of the page, seen from the repository: docs/browser.png is made this way. */
const picture = process.env["LAPIDARY_SCREENSHOT"];

const PROMPT = "And it came to pass";
const TOKENS = 48;

let folder: string;
let server: Served;
let browser: Chromium;
let page: string;

beforeAll(async () => {
  folder = await exportNano("q4");
  server = await serve(folder);
  browser = await Chromium.start();
  page = await browser.open(`${server.url}?threads=2`);
});

afterAll(async () => {
  await browser?.close();
  await server?.stop();
});

const text = async (id: string) =>
  (await browser.evaluate(`document.getElementById("${id}").textContent`, page)) as string;

const value = (id: string) => browser.evaluate(`document.getElementById("${id}").value`, page);

/** Waits for a state of the page; what it says instead is the better message. */
async function untilReady(): Promise<void> {
  await browser.until(`["ready", "failed"].includes(document.body.dataset.state)`, page, 60_000);
  expect(await text("error-message")).toBe("");
}

/** Types a prompt, and clicks as a user does. */
async function ask(prompt: string, settings: string): Promise<void> {
  await browser.evaluate(`${settings}; document.getElementById("prompt").focus()`, page);
  await browser.evaluate(`document.getElementById("prompt").select()`, page);
  await browser.send("Input.insertText", { text: prompt }, page);
  await browser.evaluate(`document.getElementById("run").click()`, page);
}

const setTo = (mode: string, tokens: number) =>
  `document.getElementById("mode").value = "${mode}"; document.getElementById("max-tokens").value = "${tokens}"`;

/** What transformers.js answers in Node, where onnxruntime-node runs the same files. */
async function answerInNode(): Promise<string> {
  env.allowRemoteModels = false;
  env.localModelPath = dirname(folder);
  const name = basename(folder);
  const tokenizer = await AutoTokenizer.from_pretrained(name);
  const model = await AutoModelForCausalLM.from_pretrained(name, { dtype: "q4" });
  const inputs = tokenizer(PROMPT) as { input_ids: Tensor };
  const output = (await model.generate({ ...inputs, max_new_tokens: TOKENS, do_sample: false })) as Tensor;
  const [ids = []] = output.tolist() as bigint[][];
  await model.dispose();
  const length = inputs.input_ids.dims.at(-1) ?? 0;
  return tokenizer.decode(ids.slice(length), { skip_special_tokens: true });
}

describe("a package in Chromium", () => {
  test("loads with two threads, and says what it is", async () => {
    await untilReady();
    expect(await text("model")).toBe("nano-e");
    expect(await value("dtype")).toBe("q4");
    expect(await value("device")).toBe("wasm");
    expect(await value("threads")).toBe("2");
    // The model's own, and the second one of ONNX Runtime.
    expect([...browser.workers.keys()]).toEqual([
      `${server.url}worker.js`,
      `${server.url}runtime/ort-wasm-simd-threaded.mjs`,
    ]);
  });

  test("continues a text as it does in Node", async () => {
    await untilReady();
    await ask(PROMPT, setTo("text", TOKENS));
    await untilReady();
    expect(await text("answer")).toBe(await answerInNode());
    expect(await text("answer-tokens")).toBe(`${TOKENS} tokens`);
    expect(await text("speed")).toMatch(/^\d+\.\d tokens\/s$/);
  });

  test("answers a question through the chat template, and stops when told to", async () => {
    await untilReady();
    await ask("Who is Ahab?", setTo("chat", 2000));
    await browser.until(`document.getElementById("answer").textContent.length > 0`, page, 30_000);
    await browser.evaluate(`document.getElementById("stop").click()`, page);
    await untilReady();
    expect(await text("status")).toBe("Stopped.");
    expect(Number.parseInt(await text("answer-tokens"), 10)).toBeLessThan(2000);
  });

  test("says what is wrong with a request, and goes on", async () => {
    await untilReady();
    await ask("Too long", `document.getElementById("max-tokens").max = ""; ${setTo("text", 200_000)}`);
    await browser.until(`!document.getElementById("error").hidden`, page, 30_000);
    expect(await text("error-message")).toMatch(/200005 tokens; the model takes 131072/);
    await ask(PROMPT, setTo("text", 1));
    await untilReady();
    expect(await text("answer-tokens")).toBe("1 token");
  });

  test("says which file a package lacks", async () => {
    const data = join(folder, "onnx", "decoder_model_merged_q4.onnx_data");
    await rename(data, `${data}.away`);
    const other = await browser.open(server.url);
    try {
      await browser.until(`document.body.dataset.state === "failed"`, other, 60_000);
      const error = await browser.evaluate(`document.getElementById("error").textContent`, other);
      expect(error).toContain("decoder_model_merged_q4.onnx_data");
      expect(error).toContain("write it again with lapidary convert");
    } finally {
      await rename(`${data}.away`, data);
    }
  });

  test("asks no other host for anything", async () => {
    await untilReady();
    expect(browser.complaints).toEqual([]);
    expect(browser.outside).toEqual([]);
    // The list is worth something: what is asked for, by the page or by the model's worker, does stand there.
    const worker = browser.workers.get(`${server.url}worker.js`) ?? "";
    const addresses = ["http://page.invalid/", "http://worker.invalid/"] as const;
    for (const [index, session] of [page, worker].entries()) {
      const request = `fetch("${addresses[index]}").then(() => "came", () => "refused")`;
      expect(await browser.evaluate(request, session)).toBe("refused");
    }
    expect(browser.outside).toEqual(addresses);
  });

  test.runIf(picture !== undefined)("has its picture taken", async () => {
    page = await browser.open(server.url);
    await untilReady();
    await ask("In the beginning God created", setTo("text", 96));
    await untilReady();
    const { data } = await browser.send("Page.captureScreenshot", { format: "png" }, page);
    const bytes = Buffer.from(data as string, "base64");
    expect(bytes.length).toBeLessThan(150_000);
    await writeFile(join(packageRoot, picture ?? ""), bytes);
  });
});
