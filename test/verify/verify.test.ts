import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import type { Engine, ModelInfo, ScoreOptions, Window, WindowScores } from "../../src/engines/types.js";
import { VerifyError } from "../../src/verify/errors.js";
import { checkGateOptions, checkGates } from "../../src/verify/gates.js";
import { measureThroughput } from "../../src/verify/throughput.js";
import { verifyModel, type VerifyOptions } from "../../src/verify/verify.js";
import { createVisitor } from "../../src/verify/visitor.js";

/** A model whose logits are a fixed function of the tokens before, so that every score can be computed by hand. */
interface Toy {
  readonly vocabulary: number;
  readonly noise: number;
  /** Tokens that a position sees; the mask of a sliding layer. */
  readonly sight: number;
  readonly addsBos: boolean;
  readonly shift: number;
}

const plainToy: Toy = { vocabulary: 300, noise: 0, sight: 8, addsBos: true, shift: 0 };

function toyLogits(toy: Toy, tokens: Int32Array, position: number): Float32Array {
  let state = 7;
  for (let i = Math.max(0, position - toy.sight + 1); i <= position; i++) {
    state = (Math.imul(state, 31) + (tokens[i] ?? 0)) % 65_521;
  }
  return Float32Array.from(
    { length: toy.vocabulary },
    (_, i) => 4 * Math.sin(state + 3 * i) + toy.noise * Math.cos(5 * i + state),
  );
}

/** Sum of e^logit. */
function total(row: Float32Array): number {
  return row.reduce((sum, value) => sum + Math.exp(value), 0);
}

class ToyEngine implements Engine {
  readonly loaded: string[] = [];
  readonly unloaded: number[] = [];
  readonly contexts: number[] = [];
  readonly scored: Window[] = [];
  readonly visitors: URL[] = [];
  closed = false;

  constructor(readonly models: Readonly<Record<string, Toy>>) {}

  info = async () => ({ name: "toy", version: "1", system: "" });

  #toy(handle: number): Toy {
    return this.models[this.loaded[handle] ?? ""] ?? plainToy;
  }

  async load(path: string, { context }: { context: number }): Promise<{ handle: number; model: ModelInfo }> {
    const toy = this.models[path];
    if (toy === undefined) throw new Error(`no toy ${path}`);
    this.contexts.push(context);
    const handle = this.loaded.push(path) - 1;
    const { vocabulary, addsBos } = toy;
    return {
      handle,
      model: { path, vocabulary, parameters: 1, bytes: 1, description: "toy", bos: 2, addsBos },
    };
  }

  async tokenize(
    handle: number,
    text: string,
    options: { special: boolean; bos: boolean },
  ): Promise<Int32Array> {
    const { shift } = this.#toy(handle);
    const tokens = [...Buffer.from(text)].map((byte) => 10 + byte + shift);
    return Int32Array.from(options.bos ? [2, ...tokens] : tokens);
  }

  async score(
    handles: readonly number[],
    windows: readonly Window[],
    options: ScoreOptions,
  ): Promise<WindowScores[]> {
    this.visitors.push(options.visitor);
    const toys = handles.map((handle) => this.#toy(handle));
    const visitor = createVisitor((toys[0] as Toy).vocabulary, toys.length);
    return windows.map(({ tokens, first }, index) => {
      this.scored.push({ tokens, first });
      options.signal?.throwIfAborted();
      const values = new Float64Array((tokens.length - 1 - first) * visitor.columns);
      for (let p = first; p < tokens.length - 1; p++) {
        const at = (p - first) * visitor.columns;
        visitor.visit(
          toys.map((toy) => toyLogits(toy, tokens, p)),
          tokens[p + 1] ?? 0,
          values.subarray(at, at + visitor.columns),
        );
      }
      options.onWindow?.(index + 1);
      return { columns: visitor.columns, values };
    });
  }

  bench = async () => ({ speeds: [], threads: 1, load: [0, 0] as const, peakMemory: 5 });
  peakMemory = async () => 5;
  async unload(handle: number): Promise<void> {
    this.unloaded.push(handle);
  }
  async close(): Promise<void> {
    this.closed = true;
  }
}

const rendered = "<bos><|turn>user\nHello there, who are you?<turn|>\n";

let folder = "";
let text = "";
beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), "lapidary-verify-"));
  text = join(folder, "text.txt");
  await writeFile(text, Array.from({ length: 40 }, (_, i) => `line ${i * i} of the text\n`).join(""));
  await writeFile(
    join(folder, "chat.jsonl"),
    '{"messages":[{"role":"user","content":"Hello there, who are you?"}]}\n',
  );
});
afterAll(() => rm(folder, { recursive: true, force: true }));

function options(
  models: Record<string, Toy>,
  more: Partial<VerifyOptions> = {},
): VerifyOptions & { engine: ToyEngine } {
  return {
    candidate: "candidate",
    reference: "reference",
    text,
    mode: "raw",
    context: 32,
    threads: 1,
    ...more,
    engine: new ToyEngine(models),
  };
}

async function failure(promise: Promise<unknown>): Promise<unknown> {
  return promise.then(
    () => "nothing was refused",
    (error: unknown) => error,
  );
}

describe("verifyModel", () => {
  it("runs both files over the same windows and describes what it found as plain data", async () => {
    const seen: [number, number][] = [];
    const request = options(
      { candidate: { ...plainToy, noise: 0.3 }, reference: plainToy },
      { onProgress: (done, total) => seen.push([done, total]), chunks: 5 },
    );
    const result = await verifyModel(request);
    const { comparison } = result.windows;
    expect(request.engine.loaded).toEqual(["reference", "candidate"]);
    expect(request.engine.unloaded).toEqual([0, 1]);
    expect(request.engine.visitors.map((url) => url.pathname)).toEqual([
      expect.stringMatching(/\/dist\/src\/verify\/visitor\.js$/),
    ]);
    expect(seen).toEqual([1, 2, 3, 4, 5].map((done) => [done, 5]));
    expect(result.windows).toMatchObject({ context: 32, windows: 5, first: 16, scored: 75 });
    expect(result.text).toMatchObject({ source: text, mode: "raw" });
    expect(result.longWindows).toBeNull();
    expect(comparison?.divergence.value).toBeGreaterThan(0.001);
    expect(JSON.parse(JSON.stringify(result))).toEqual(result);

    // The mean over the windows, computed here from the same logits.
    let divergence = 0;
    for (const { tokens, first } of request.engine.scored) {
      for (let p = first; p < tokens.length - 1; p++) {
        const [base, other] = [plainToy, { ...plainToy, noise: 0.3 }].map((toy) =>
          toyLogits(toy, tokens, p),
        ) as [Float32Array, Float32Array];
        const [baseTotal, otherTotal] = [total(base), total(other)];
        base.forEach((value, i) => {
          const share = Math.exp(value) / baseTotal;
          divergence += share * Math.log(share / (Math.exp(other[i] ?? 0) / otherTotal));
        });
      }
    }
    expect(comparison?.divergence.value).toBeCloseTo(divergence / 75, 9);
  });

  it("begins every window with the one BOS, and none where the model wants none", async () => {
    const request = options({ candidate: plainToy }, { reference: null });
    const result = await verifyModel(request);
    expect(result.reference).toBeNull();
    expect(result.windows.comparison).toBeNull();
    expect(request.engine.scored.every(({ tokens }) => tokens[0] === 2 && !tokens.includes(2, 1))).toBe(true);
    const without = options({ candidate: { ...plainToy, addsBos: false } }, { reference: null });
    const other = await verifyModel(without);
    expect(other.text.tokens).toBe(result.text.tokens - 1);
    expect(without.engine.scored.some(({ tokens }) => tokens.includes(2))).toBe(false);
  });

  it("shows a wrong sliding window in the long windows", async () => {
    const models = { candidate: { ...plainToy, sight: 40 }, reference: { ...plainToy, sight: 32 } };
    const request = options(models, { slidingWindow: 32, context: 16 });
    const result = await verifyModel(request);
    expect(request.engine.contexts).toEqual([128, 128]);
    expect(result.windows.comparison?.divergence.value).toBe(0);
    expect(result.longWindows).toMatchObject({ context: 128, windows: 4, first: 32, scored: 4 * 95 });
    expect(result.longWindows?.comparison?.divergence.value).toBeGreaterThan(0.5);
    const missed = checkGates(result, { maxDivergence: 0.1, maxPerplexity: 1e9 });
    expect(missed.map(({ gate, windows }) => [gate, windows])).toEqual([["maxDivergence", "longWindows"]]);
  });

  it("leaves long windows out where the text is too short for one", async () => {
    const result = await verifyModel(
      options({ candidate: plainToy, reference: plainToy }, { slidingWindow: 512 }),
    );
    expect(result.longWindows).toBeNull();
  });

  it("tells the files of a folder apart, and spreads the windows it takes over them", async () => {
    const result = await verifyModel(
      options({ candidate: plainToy, reference: plainToy }, { text: folder, context: 16 }),
    );
    expect(result.parts.map((part) => part.file)).toEqual(["chat.jsonl", "text.txt"]);
    expect(result.parts.reduce((sum, part) => sum + part.scored, 0)).toBe(result.windows.scored);
    // 25 characters and the blank line after them, BOS in front: of the targets 9…15 and 25…31, the last four are text.txt's.
    expect(result.parts[0]?.scored).toBe(10);
    const few = options(
      { candidate: plainToy },
      {
        text: folder,
        context: 16,
        chunks: 2,
        reference: null,
      },
    );
    await verifyModel(few);
    const [, second] = few.engine.scored;
    const all = options({ candidate: plainToy }, { text: folder, context: 16, reference: null });
    await verifyModel(all);
    expect(
      all.engine.scored.findIndex(({ tokens }) => tokens.every((token, i) => token === second?.tokens[i])),
    ).toBe(Math.floor(all.engine.scored.length / 2));
  });

  it("shows chats to an instruction-tuned model", async () => {
    const request = options(
      { candidate: plainToy },
      {
        text: join(folder, "chat.jsonl"),
        mode: "auto",
        instructionTuned: true,
        render: () => rendered,
        reference: null,
      },
    );
    const result = await verifyModel(request);
    expect(result.text).toMatchObject({ mode: "chat", tokens: 1 + rendered.length - "<bos>".length });
  });

  it("refuses files that were not made from the same checkpoint", async () => {
    const smaller = options({ candidate: plainToy, reference: { ...plainToy, vocabulary: 299 } });
    expect(await failure(verifyModel(smaller))).toMatchObject({ code: "vocabulary-mismatch", exitCode: 2 });
    expect(smaller.engine.unloaded).toEqual([0, 1]);
    const shifted = options({ candidate: plainToy, reference: { ...plainToy, shift: 1 } });
    expect(await failure(verifyModel(shifted))).toMatchObject({ code: "tokenizer-mismatch", exitCode: 2 });
    const bosless = options({ candidate: plainToy, reference: { ...plainToy, addsBos: false } });
    expect(await failure(verifyModel(bosless))).toMatchObject({ code: "tokenizer-mismatch" });
  });

  it("says which file gives no numbers, and where", async () => {
    const broken = { ...plainToy, noise: Number.NaN };
    const candidate = await failure(verifyModel(options({ candidate: broken, reference: plainToy })));
    expect(candidate).toBeInstanceOf(VerifyError);
    expect((candidate as VerifyError).message).toMatch(/^At token 16 .* the candidate /);
    const reference = await failure(verifyModel(options({ candidate: plainToy, reference: broken })));
    expect((reference as VerifyError).message).toMatch(/ the reference /);
    const alone = await failure(verifyModel(options({ candidate: broken }, { reference: null })));
    expect((alone as VerifyError).message).toMatch(/ the candidate /);
  });

  it("unloads what it loaded when it is stopped, or a file cannot be loaded", async () => {
    const stopped = options(
      { candidate: plainToy, reference: plainToy },
      { signal: AbortSignal.abort(new Error("stop")) },
    );
    expect(await failure(verifyModel(stopped))).toMatchObject({ message: "stop" });
    const missing = options({ reference: plainToy });
    expect(await failure(verifyModel(missing))).toMatchObject({ message: "no toy candidate" });
    expect(missing.engine.unloaded).toEqual([0]);
  });

  it("refuses a text under one window, and says how many tokens it has", async () => {
    const long = options({ candidate: plainToy, reference: plainToy }, { context: 4096 });
    expect(await failure(verifyModel(long))).toMatchObject({ code: "text-short", exitCode: 2 });
  });
});

describe("gates", () => {
  it("name what was missed, by how much, and nothing else", async () => {
    const result = await verifyModel(options({ candidate: { ...plainToy, noise: 1 }, reference: plainToy }));
    const { comparison, perplexity } = result.windows;
    const top = comparison?.topAgreement.value ?? 0;
    const met = {
      maxDivergence: comparison?.divergence.value ?? 0,
      maxPerplexityRatio: comparison?.ratio.value ?? 0,
      minTopAgreement: top,
      maxPerplexity: perplexity.value,
    };
    expect(checkGates(result, met)).toEqual([]);
    expect(checkGates(result, {})).toEqual([]);
    const strict = {
      maxDivergence: met.maxDivergence / 2,
      maxPerplexityRatio: met.maxPerplexityRatio * 0.999,
      minTopAgreement: Math.min(1, top + 1e-6),
      maxPerplexity: perplexity.value * 0.999,
    };
    const missed = checkGates(result, strict);
    expect(missed.map((failure) => failure.gate)).toEqual(Object.keys(strict));
    expect(missed[0]).toMatchObject({
      limit: strict.maxDivergence,
      measured: met.maxDivergence,
      windows: "windows",
    });
    expect(missed[0]?.message).toMatch(/^The mean KL divergence is 0\.\d+, above the limit of /);
    expect(missed[2]?.message).toContain("below the limit");
  });

  it.each([
    [{ maxDivergence: -1 }, true],
    [{ maxDivergence: Number.NaN }, true],
    [{ minTopAgreement: 95 }, true],
    [{ maxPerplexity: 0.5 }, true],
    [{ maxDivergence: 0.1 }, false],
    [{ minTopAgreement: 0.9 }, false],
    [{ maxPerplexityRatio: 1.01 }, false],
  ])("that cannot be meant are refused: %j, with a reference: %s", async (gates, hasReference) => {
    const refused = await failure(Promise.resolve().then(() => checkGateOptions(gates, hasReference)));
    expect(refused).toMatchObject({ code: "gate-invalid", exitCode: 2 });
  });

  it("that can be meant are let through", async () => {
    const fine = { maxDivergence: 0.1, maxPerplexityRatio: 1.01, minTopAgreement: 0.9, maxPerplexity: 20 };
    expect(await failure(Promise.resolve().then(() => checkGateOptions(fine, true)))).toBe(
      "nothing was refused",
    );
    expect(await failure(Promise.resolve().then(() => checkGateOptions({ maxPerplexity: 20 }, false)))).toBe(
      "nothing was refused",
    );
  });
});

describe("measureThroughput", () => {
  it("uses an engine of its own and closes it, whatever happens", async () => {
    const engine = new ToyEngine({ candidate: plainToy });
    const found = await measureThroughput({ startEngine: async () => engine, path: "candidate", threads: 1 });
    expect(found).toMatchObject({ peakMemory: 5, model: { path: "candidate" }, engine: { name: "toy" } });
    expect(engine.closed).toBe(true);
    const failing = new ToyEngine({});
    expect(
      await failure(measureThroughput({ startEngine: async () => failing, path: "candidate", threads: 1 })),
    ).toMatchObject({ message: "no toy candidate" });
    expect(failing.closed).toBe(true);
  });
});
