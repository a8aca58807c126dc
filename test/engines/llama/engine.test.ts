import { readFileSync } from "node:fs";
import { readFile, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { packageRoot } from "../../../src/base/paths.js";
import { startLlamaEngine } from "../../../src/engines/llama/engine.js";
import { locateLlama } from "../../../src/engines/llama/platform.js";
import type { Engine, ModelInfo, Window } from "../../../src/engines/types.js";
import { nanoGguf } from "../../support/nano-gguf.js";
import { rejection } from "./support/failures.js";

const FIXTURES = join(packageRoot, "fixtures");
const CONTEXT = 768;
const LOAD = { threads: 1, context: CONTEXT };
const PLAIN = { special: false, bos: true };

function visitor(name: "logits" | "loss" | "broken"): URL {
  return new URL(`visitors/${name}.mjs`, import.meta.url);
}

function floats(path: string): Float32Array {
  return new Float32Array(new Uint8Array(readFileSync(path)).buffer);
}

function mean(values: Float64Array): number {
  return values.reduce((sum, value) => sum + value, 0) / values.length;
}

const evaluation = await readFile(join(FIXTURES, "text", "eval.txt"), "utf8");
const reference = JSON.parse(await readFile(join(FIXTURES, "reference", "logits.json"), "utf8")) as {
  ids: number[];
  text: string;
};
const path = await nanoGguf("F32");

describe("a model in llama.cpp", () => {
  let engine: Engine;
  let handle: number;
  let model: ModelInfo;

  beforeAll(async () => {
    engine = await startLlamaEngine();
    ({ handle, model } = await engine.load(path, LOAD));
  });
  afterAll(() => engine.close());

  it("says what it is", async () => {
    const info = await engine.info();
    expect(info.name).toMatch(/^llama\.cpp v\d+\.\d+\.\d+ \(@node-llama-cpp\/[\w-]+ [\d.]+\)$/);
    expect(info.system).toContain("CPU");
    expect(model).toMatchObject({ path, vocabulary: 1024, bos: 2, addsBos: true });
    expect(model.description).toContain("gemma4");
    expect(model.bytes).toBeGreaterThan(16_000_000);
    expect(await engine.peakMemory()).toBeGreaterThan(model.bytes);
  });

  it("gives the logits of an independent implementation", async () => {
    const expected = floats(join(FIXTURES, "reference", "logits.f32"));
    const window = { tokens: Int32Array.from(reference.ids), first: 0 };
    const [scores] = await engine.score([handle], [window], { visitor: visitor("logits") });
    const { columns, values } = scores!;
    expect(values.length / columns).toBe(reference.ids.length - 1);
    let largest = 0;
    for (let row = 0; row < values.length / columns; row++) {
      for (let token = 0; token < 1024; token++) {
        const error = Math.abs(values[row * columns + token]! - expected[row * 1024 + token]!);
        largest = Math.max(largest, error);
      }
      expect(values[row * columns + 1024]).toBe(reference.ids[row + 1]);
    }
    // Logits span about ±15; keys and values are kept in half precision.
    expect(largest).toBeLessThan(0.01);
  });

  it("tokenizes as the independent implementation did", async () => {
    const tokens = await engine.tokenize(handle, evaluation, PLAIN);
    expect([...tokens.subarray(0, reference.ids.length)]).toEqual(reference.ids);
  });

  it("tokenizes control tokens, texts without BOS, empty texts, and texts of many small tokens", async () => {
    const turn = "<start_of_turn>user";
    const special = await engine.tokenize(handle, "<bos>", { special: true, bos: false });
    expect([...special]).toEqual([model.bos]);
    const literal = await engine.tokenize(handle, turn, { special: false, bos: false });
    expect(literal.length).toBeGreaterThan(2);
    expect([...(await engine.tokenize(handle, "", { special: false, bos: false }))]).toEqual([]);
    expect([...(await engine.tokenize(handle, "", PLAIN))]).toEqual([model.bos]);
    // Bytes that no token covers become a token each: more than the first guess has room for.
    const bytes = await engine.tokenize(handle, "\u{10348}\0".repeat(500), PLAIN);
    expect(bytes.length).toBe(1 + 5 * 500);
  });

  it("does not depend on how a window is cut into batches, or on what ran before", async () => {
    const tokens = await engine.tokenize(handle, evaluation, PLAIN);
    const long = { tokens: tokens.slice(0, 700), first: 650 };
    const prefix = { tokens: tokens.slice(0, 600), first: 0 };
    const whole = { tokens: tokens.slice(0, 700), first: 0 };
    const seen: number[] = [];
    const scores = await engine.score([handle], [long, prefix, whole, long], {
      visitor: visitor("loss"),
      onWindow: (done) => seen.push(done),
    });
    expect(seen).toEqual([1, 2, 3, 4]);
    expect(scores.map(({ values }) => values.length)).toEqual([49, 599, 699, 49]);
    expect(scores[3]!.values).toEqual(scores[0]!.values);
    const ends: readonly [Float64Array, Float64Array][] = [
      [scores[2]!.values.subarray(650), scores[0]!.values],
      [scores[2]!.values.subarray(0, 599), scores[1]!.values],
    ];
    for (const [a, b] of ends) {
      expect(Math.max(...a.map((value, i) => Math.abs(value - b[i]!)))).toBeLessThan(0.01);
    }
  });

  it("has the perplexity that llama-perplexity prints", async () => {
    // llama-perplexity v0.5.0 -c 512 --chunks 4 over the F32 file: 18.2424.
    const tokens = await engine.tokenize(handle, evaluation, PLAIN);
    const windows: Window[] = [];
    for (let i = 0; i < 4; i++) {
      const window = tokens.slice(i * 512, (i + 1) * 512);
      window[0] = model.bos;
      windows.push({ tokens: window, first: 256 });
    }
    const scores = await engine.score([handle], windows, { visitor: visitor("loss") });
    const loss = scores.reduce((sum, { values }) => sum + mean(values), 0) / scores.length;
    expect(Math.exp(loss)).toBeCloseTo(18.2424, 3);
  });

  it("runs two models side by side", async () => {
    const other = await engine.load(await nanoGguf("BF16"), { threads: 1, context: 256 });
    const tokens = (await engine.tokenize(handle, evaluation, PLAIN)).slice(0, 200);
    const windows = [{ tokens, first: 100 }];
    const [both] = await engine.score([handle, other.handle], windows, { visitor: visitor("loss") });
    const [alone] = await engine.score([handle], windows, { visitor: visitor("loss") });
    const first = both!.values.filter((_, i) => i % 2 === 0);
    const second = both!.values.filter((_, i) => i % 2 === 1);
    expect(Math.abs(mean(first) - mean(alone!.values))).toBeLessThan(1e-3);
    // The same weights, multiplied in other precision.
    expect(mean(second)).not.toBe(mean(first));
    expect(Math.abs(mean(second) - mean(first))).toBeLessThan(0.01);

    const wide = { tokens: new Int32Array(300).fill(5), first: 0 };
    const tooLong = await rejection(
      engine.score([handle, other.handle], [wide], { visitor: visitor("loss") }),
    );
    expect(tooLong.message).toContain("has 300 tokens");
    await engine.unload(other.handle);
    expect((await rejection(engine.tokenize(other.handle, "a", PLAIN))).code).toBe("engine-handle");
  });

  it("refuses windows that it cannot run, and stays usable", async () => {
    const tokens = Int32Array.from([2, 300, 301]);
    const refused: readonly [Window, string][] = [
      [{ tokens: new Int32Array(CONTEXT + 1), first: 0 }, `has ${CONTEXT + 1} tokens`],
      [{ tokens, first: 2 }, "from position 2"],
      [{ tokens, first: -1 }, "from position -1"],
      [{ tokens: Int32Array.from([2, 1024, 3]), first: 0 }, "token 1024 at position 1"],
      [{ tokens: Int32Array.from([2, -1, 3]), first: 0 }, "token -1 at position 1"],
      [{ tokens: new Int32Array(0), first: 0 }, "from position 0"],
    ];
    for (const [window, message] of refused) {
      const error = await rejection(engine.score([handle], [window], { visitor: visitor("loss") }));
      expect(error.code).toBe("engine-window");
      expect(error.message).toContain(message);
    }
    const twice = engine.score([handle, handle], [{ tokens, first: 0 }], { visitor: visitor("loss") });
    expect((await rejection(twice)).code).toBe("engine-handle");
    const broken = engine.score([handle], [{ tokens, first: 0 }], { visitor: visitor("broken") });
    expect((await rejection(broken)).message).toContain("the visitor is broken on purpose");
    const notVisitor = engine.score([handle], [{ tokens, first: 0 }], { visitor: new URL("node:os") });
    expect((await rejection(notVisitor)).code).toBe("engine-visitor");
    const [scores] = await engine.score([handle], [{ tokens, first: 0 }], { visitor: visitor("loss") });
    expect(scores!.values.length).toBe(2);
  });

  it("measures speed and memory", async () => {
    const result = await engine.bench(handle, { promptTokens: 32, generationTokens: 4, repetitions: 3 });
    expect(result.speeds.map(({ kind, tokens, samples }) => [kind, tokens, samples.length])).toEqual([
      ["prompt", 32, 3],
      ["generation", 4, 3],
    ]);
    for (const { samples, mean } of result.speeds) {
      expect(Math.min(...samples)).toBeGreaterThan(0);
      expect(mean).toBeGreaterThanOrEqual(Math.min(...samples));
      expect(mean).toBeLessThanOrEqual(Math.max(...samples));
    }
    expect(result.threads).toBe(1);
    expect(result.peakMemory).toBeGreaterThan(model.bytes);
    const none = engine.load(path, { threads: 0, context: 64 });
    expect(await rejection(none)).toMatchObject({ code: "engine-threads", exitCode: 2 });
    const nothing = engine.bench(handle, { promptTokens: 0, generationTokens: 0, repetitions: 1 });
    expect((await rejection(nothing)).code).toBe("engine-bench");
  });

  it("says in llama.cpp's words why a file does not load", async () => {
    const bytes = await readFile(path);
    const cut = `${path}.cut`;
    await writeFile(cut, bytes.subarray(0, bytes.length / 2));
    const truncated = await rejection(engine.load(cut, LOAD));
    expect(truncated.code).toBe("engine-load");
    expect(truncated.message).toContain(cut);
    expect(truncated.message).toContain("not within the file bounds");
    const absent = await rejection(engine.load(`${path}.absent`, LOAD));
    expect(absent.message).toContain("No such file");
    const other = await rejection(engine.load(join(packageRoot, "package.json"), LOAD));
    expect(other.message).toContain("GGUF");
  });
});

describe("llama.cpp's process", () => {
  const window = { tokens: new Int32Array(512).fill(5), first: 0 };

  it("reports its own death to the calls under way and to later ones", async () => {
    const engine = await startLlamaEngine();
    const { handle } = await engine.load(path, LOAD);
    let killed = false;
    const score = engine.score(
      [handle],
      Array.from({ length: 400 }, () => window),
      {
        visitor: new URL(
          "data:text/javascript,export const createVisitor = () => { process.kill(process.pid, 'SIGKILL'); }",
        ),
        onWindow: () => (killed = true),
      },
    );
    const tokenize = rejection(engine.tokenize(handle, "behind it", PLAIN));
    const error = await rejection(score);
    expect(error.code).toBe("engine-crashed");
    expect(error.message).toContain("SIGKILL");
    expect(error.message).toContain("during score");
    expect(killed).toBe(false);
    expect((await tokenize).code).toBe("engine-crashed");
    expect((await rejection(engine.peakMemory())).code).toBe("engine-crashed");
    await engine.close();
  });

  it("quotes what a failed assertion printed", async () => {
    const engine = await startLlamaEngine();
    const { handle } = await engine.load(path, LOAD);
    const abort =
      "data:text/javascript,import { writeSync } from 'node:fs'; writeSync(2, 'ggml.c:1: GGML_ASSERT(rows > 0) failed'); process.abort();";
    const error = await rejection(engine.score([handle], [window], { visitor: new URL(abort) }));
    expect(error.message).toMatch(/SIGABRT|exit code/);
    expect(error.message).toContain("GGML_ASSERT(rows > 0) failed");
    await engine.close();
  });

  it("ends when a call is aborted, and rejects with the reason", async () => {
    const engine = await startLlamaEngine();
    const { handle } = await engine.load(path, LOAD);
    const stop = new AbortController();
    const reason = new Error("enough");
    const score = engine.score(
      [handle],
      Array.from({ length: 10_000 }, () => window),
      {
        visitor: visitor("loss"),
        signal: stop.signal,
        onWindow: () => stop.abort(reason),
      },
    );
    await expect(score).rejects.toBe(reason);
    expect((await rejection(engine.peakMemory())).code).toBe("engine-closed");
    const late = engine.score([handle], [window], { visitor: visitor("loss"), signal: stop.signal });
    expect((await rejection(late)).code).toBe("engine-closed");
    await engine.close();
  });

  it("rejects the calls under way when it is closed, and closes twice", async () => {
    const engine = await startLlamaEngine();
    const load = rejection(engine.load(path, LOAD));
    await engine.close();
    expect((await load).code).toBe("engine-closed");
    await engine.close();
  });

  it("is refused when its libraries are not what the package claims", async () => {
    const installation = { ...locateLlama(), release: "0.4.0" };
    const other = locateLlama().release === "0.4.0" ? "0.5.0" : "0.4.0";
    const error = await rejection(startLlamaEngine({ locate: () => ({ ...installation, release: other }) }));
    expect(error.code).toBe("engine-layout");
    expect(error.message).toContain(`claims to be llama.cpp ${other}`);
  });

  it("is refused when a library cannot be loaded", async () => {
    const installation = locateLlama();
    const libraries = { ...installation.libraries, llama: join(packageRoot, "package.json") };
    const error = await rejection(startLlamaEngine({ locate: () => ({ ...installation, libraries }) }));
    expect(error.code).toBe("engine-library");
    expect(error.message).toContain("package.json cannot be loaded");
  });
});
