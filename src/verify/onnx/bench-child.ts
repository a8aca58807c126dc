import { loadavg } from "node:os";
import { startOnnxEngine } from "../../engines/onnx/engine.js";
import type { OnnxEngine } from "../../engines/onnx/types.js";
import { summarize } from "../../engines/speed.js";
import type { Speed } from "../../engines/types.js";
import { encodeGraph, readTextGraphs } from "../../gemma4/graph/files.js";
import { withAccuracyLevel } from "../../gemma4/graph/verification.js";
import type { OnnxBench, OnnxBenchReply, OnnxBenchResult } from "./bench.js";

/** Fixed start of the random tokens, so that two runs feed the same ones. */
const SEED = 0x9e3779b9;

function randomTokens(count: number, vocabulary: number): Int32Array {
  let state = SEED;
  return Int32Array.from({ length: count }, () => {
    state ^= state << 13;
    state ^= state >>> 17;
    state ^= state << 5;
    return (state >>> 0) % vocabulary;
  });
}

interface Sessions {
  readonly embed: number;
  readonly decoder: number;
}

/** One pass over a prompt, or passes over one token after the other, on empty caches. */
async function seconds(
  engine: OnnxEngine,
  sessions: Sessions,
  kind: Speed["kind"],
  tokens: Int32Array,
): Promise<number> {
  const prompt = kind === "prompt" ? tokens : tokens.subarray(0, 1);
  const steps = kind === "prompt" ? 0 : tokens.length;
  const { promptSeconds, stepSeconds } = await engine.generate({
    ...sessions,
    prompt,
    steps,
    choose: "fixed",
  });
  return kind === "prompt" ? promptSeconds : stepSeconds.reduce((sum, each) => sum + each, 0);
}

/** Time that one kind of speed may take: at accuracy level 0 a token of a large model can take ten seconds. */
const BUDGET_SECONDS = 60;

/**
 * llama-bench's procedure: one warm-up, then every repetition on empty caches; fewer of them, and of fewer tokens, where
 * they would take longer than a minute.
 */
async function measure(
  engine: OnnxEngine,
  sessions: Sessions,
  kind: Speed["kind"],
  { vocabulary, repetitions }: OnnxBench,
  count: number,
): Promise<Speed> {
  const tokens = randomTokens(count, vocabulary);
  const first = kind === "prompt" ? tokens : tokens.subarray(0, 1);
  const once = await seconds(engine, sessions, kind, first);
  const fitting = Math.max(1, Math.floor(BUDGET_SECONDS / once));
  const length = kind === "prompt" ? count : Math.min(count, fitting);
  const times = Math.max(1, Math.min(repetitions, Math.floor((fitting * first.length) / length)));
  const samples: number[] = [];
  for (let i = 0; i < times; i++) {
    samples.push(length / (await seconds(engine, sessions, kind, tokens.subarray(0, length))));
  }
  return summarize(kind, length, samples);
}

async function bench(options: OnnxBench): Promise<OnnxBenchResult> {
  const { embed, decoder, accuracyLevel, threads, promptTokens, generationTokens } = options;
  const engine = await startOnnxEngine();
  try {
    const graphs = await readTextGraphs(embed, decoder);
    const levelled =
      accuracyLevel === null ? graphs.decoder : withAccuracyLevel(graphs.decoder, accuracyLevel);
    const common = { threads, folder: graphs.folder };
    const sessions = {
      embed: (await engine.open({ ...common, model: await encodeGraph(graphs.embed), name: embed })).session,
      decoder: (await engine.open({ ...common, model: await encodeGraph(levelled), name: decoder })).session,
    };
    const before = loadavg()[0] ?? 0;
    const speeds: Speed[] = [];
    if (promptTokens > 0) speeds.push(await measure(engine, sessions, "prompt", options, promptTokens));
    if (generationTokens > 0)
      speeds.push(await measure(engine, sessions, "generation", options, generationTokens));
    const { name, version } = await engine.info();
    return {
      speeds,
      threads,
      load: [before, loadavg()[0] ?? 0],
      peakMemory: await engine.peakMemory(),
      engine: { name, version, system: `${process.platform} ${process.arch}` },
    };
  } finally {
    await engine.close();
  }
}

function send(reply: OnnxBenchReply): void {
  process.send?.(reply, () => process.disconnect());
}

process.once("message", (options: OnnxBench) => {
  bench(options).then(
    (result) => send({ kind: "result", result }),
    (error: unknown) =>
      send({ kind: "failure", message: error instanceof Error ? error.message : String(error) }),
  );
});
