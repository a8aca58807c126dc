import { afterAll, beforeAll, describe, expect, it } from "vitest";
import type { GraphProto } from "../../../formats/onnx/types.js";
import { startOnnxEngine } from "../../../src/engines/onnx/engine.js";
import type { OnnxEngine } from "../../../src/engines/onnx/types.js";
import {
  decoder,
  embed,
  encoded,
  expectedTokens,
  hasRuntime,
  identity,
  refusal,
  zeros,
  VOCABULARY,
} from "./support.js";

const PROMPT = [3, 1, 4, 1, 5];
const prompt = Int32Array.from(PROMPT);

describe.skipIf(!hasRuntime)("generation in ONNX Runtime", () => {
  let engine: OnnxEngine;
  let embedding: number;
  let decoding: number;

  const open = async (graph: GraphProto, name: string): Promise<number> =>
    (await engine.open({ model: await encoded(graph), name, threads: 1 })).session;

  beforeAll(async () => {
    engine = await startOnnxEngine();
    embedding = await open(embed(), "embed.onnx");
    decoding = await open(decoder(), "decoder.onnx");
  });
  afterAll(() => engine.close());

  it("feeds back what it chose, and the caches", async () => {
    const { tokens, stepSeconds, promptSeconds, ...rest } = await engine.generate({
      embed: embedding,
      decoder: decoding,
      prompt,
      steps: 6,
      choose: "greedy",
    });
    expect([...tokens]).toEqual(expectedTokens(PROMPT, 6));
    expect(new Set(tokens).size).toBeGreaterThan(3);
    expect(stepSeconds).toHaveLength(6);
    expect(Math.min(promptSeconds, ...stepSeconds)).toBeGreaterThan(0);
    expect(rest).toEqual({});
  });

  it("gives the same however the prompt is cut", async () => {
    for (const chunk of [1, 2, 3, 5, 100]) {
      const { tokens } = await engine.generate({
        embed: embedding,
        decoder: decoding,
        prompt,
        steps: 4,
        choose: "greedy",
        chunk,
      });
      expect([...tokens]).toEqual(expectedTokens(PROMPT, 4));
    }
  });

  it("returns the logits of all positions of the prompt, and those after the last token", async () => {
    const row = (next: number): number[] =>
      Array.from({ length: VOCABULARY }, (_, token) => 0 - Math.abs(next - token));
    const positions = PROMPT.map((_, at) => expectedTokens(PROMPT.slice(0, at + 1), 1)[0]!);
    for (const chunk of [2, 5]) {
      const { promptLogits, lastLogits } = await engine.generate({
        embed: embedding,
        decoder: decoding,
        prompt,
        steps: 2,
        choose: "greedy",
        chunk,
        logits: "all",
      });
      expect([...promptLogits!].map((x) => x + 0)).toEqual(positions.flatMap(row));
      // A distance of 0 comes as −0.
      expect([...lastLogits!].map((x) => x + 0)).toEqual(row(expectedTokens(PROMPT, 3)[2]!));
    }
    const bare = { embed: embedding, decoder: decoding, prompt, steps: 0, choose: "greedy" } as const;
    const { tokens, promptLogits, lastLogits } = await engine.generate({ ...bare, logits: "last" });
    expect(tokens).toHaveLength(0);
    expect(promptLogits).toBeUndefined();
    expect([...lastLogits!].indexOf(0)).toBe(expectedTokens(PROMPT, 1)[0]);
  });

  it("ends at a stop token, but not while speed is measured", async () => {
    const all = expectedTokens(PROMPT, 6);
    const options = { embed: embedding, decoder: decoding, prompt, steps: 6, stopTokens: [all[2]!, 5] };
    const stopped = await engine.generate({ ...options, choose: "greedy" });
    const end = all.findIndex((token) => options.stopTokens.includes(token));
    expect([...stopped.tokens]).toEqual(all.slice(0, end + 1));
    expect(stopped.stepSeconds).toHaveLength(end);
    const fixed = await engine.generate({ ...options, choose: "fixed" });
    expect([...fixed.tokens]).toEqual([5, 5, 5, 5, 5, 5]);
    expect(fixed.stepSeconds).toHaveLength(6);
  });

  it("keeps caches in half precision, and takes the last row of a graph that gives all", async () => {
    const half = await open(decoder({ cache: "FLOAT16", selects: false }), "half.onnx");
    const { tokens } = await engine.generate({
      embed: embedding,
      decoder: half,
      prompt,
      steps: 6,
      choose: "greedy",
      chunk: 2,
    });
    expect([...tokens]).toEqual(expectedTokens(PROMPT, 6));
    await engine.close(half);
  });

  it("passes on all that the embedding graph gives, and keeps one row where that is a list of one", async () => {
    const both = await open(embed(true), "embed.onnx");
    const taking = await open(decoder({ perLayer: true, keepShape: [1] }), "decoder.onnx");
    const options = { embed: both, prompt, steps: 6, choose: "greedy" } as const;
    const { tokens } = await engine.generate({ ...options, decoder: taking });
    expect([...tokens]).toEqual(expectedTokens(PROMPT, 6, 1));
    // One that does not take them runs all the same.
    const without = await engine.generate({ ...options, decoder: decoding });
    expect([...without.tokens]).toEqual(expectedTokens(PROMPT, 6));
  });

  it("takes a decoder of ids alone, and returns no more logits than fit in memory", async () => {
    const wide = await open(zeros(2 ** 22), "wide.onnx");
    const options = { decoder: wide, steps: 1, choose: "greedy", chunk: 1, logits: "all" } as const;
    const { tokens, promptLogits } = await engine.generate({ ...options, prompt: Int32Array.of(7, 8) });
    expect([...tokens]).toEqual([0]);
    expect(promptLogits).toHaveLength(2 ** 23);
    const error = await refusal(
      engine.generate({ ...options, prompt: new Int32Array(65) }),
      "engine-generate",
    );
    expect(error.message).toContain("The logits of 65 tokens have 1090519040 bytes");
  });

  it("says which input or output is not of the layout", async () => {
    const run = async (graph: GraphProto, embed: number | undefined): Promise<string> => {
      const session = await open(graph, "odd.onnx");
      const generation = engine.generate({
        ...(embed === undefined ? {} : { embed }),
        decoder: session,
        prompt,
        steps: 1,
        choose: "greedy",
      });
      return (await refusal(generation, "engine-layout")).message;
    };
    expect(await run(decoder({ present: "next.1.value" }), embedding)).toBe(
      "odd.onnx takes past_key_values.1.value but does not give present.1.value.",
    );
    expect(await run(decoder({ perLayer: true }), embedding)).toBe(
      "odd.onnx takes per_layer_inputs, which embed.onnx does not give.",
    );
    expect(await run(decoder(), undefined)).toBe("odd.onnx takes inputs_embeds, which no graph gives.");
    expect(await run(decoder({ pastLength: 7 }), embedding)).toContain(
      "past_key_values.0.key has the fixed shape [batch_size, 1, 7, 1]",
    );
    expect(await run(embed(), undefined)).toContain("gives no logits");
    expect(await run(identity("FLOAT"), embedding)).toContain("odd.onnx takes x");
  });

  it("refuses what it cannot run", async () => {
    const options = { embed: embedding, decoder: decoding, prompt, steps: 1, choose: "greedy" } as const;
    for (const [wrong, message] of [
      [{ prompt: new Int32Array(0) }, "no tokens"],
      [{ prompt: Int32Array.of(1, -1) }, "token -1 at position 1"],
      [{ steps: -1 }, "-1 steps"],
      [{ steps: 0.5 }, "0.5 steps"],
      [{ chunk: 0 }, "chunks of 0 tokens"],
    ] as const) {
      const error = await refusal(engine.generate({ ...options, ...wrong }), "engine-generate");
      expect(error.message).toContain(message);
      expect(error.exitCode).toBe(2);
    }
    await refusal(engine.generate({ ...options, decoder: 99 }), "engine-handle");
  });

  it("stops in the middle when it is aborted", async () => {
    const own = await startOnnxEngine();
    const [first, second] = [embed(), decoder()];
    const a = await own.open({ model: await encoded(first), threads: 1 });
    const b = await own.open({ model: await encoded(second), threads: 1 });
    const stop = new AbortController();
    const generation = own.generate({
      embed: a.session,
      decoder: b.session,
      prompt,
      steps: 1e9,
      choose: "fixed",
      signal: stop.signal,
    });
    const reason = new Error("enough");
    setTimeout(() => stop.abort(reason), 50);
    await expect(generation).rejects.toBe(reason);
    await own.close();
  });
});
