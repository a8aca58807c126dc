import { loadavg } from "node:os";
import { setImmediate as nextTurn } from "node:timers/promises";
import { EngineError } from "../errors.js";
import type { BenchOptions, BenchResult, Speed } from "../types.js";
import type { Llama, Pointer } from "./library.js";
import { peakMemory } from "../memory.js";
import { summarize } from "../speed.js";
import { checkDecoded, type Model } from "./model.js";

/** llama-bench's default for the logical batch; the physical one is llama.cpp's default of 512. */
const BATCH = 2048;

/** Fixed start of the random tokens, so that two runs feed the same ones. */
const SEED = 0x9e3779b9;

/** Tokens drawn evenly from a vocabulary by Marsaglia's xorshift; which ones does not matter much. */
function randomTokens(vocabulary: number): () => number {
  let state = SEED;
  return () => {
    state ^= state << 13;
    state ^= state >>> 17;
    state ^= state << 5;
    return (state >>> 0) % vocabulary;
  };
}

function batchOf(token: Int32Array, count: number) {
  return {
    n_tokens: count,
    token,
    embd: null,
    pos: null,
    n_seq_id: null,
    seq_id: null,
    logits: null,
  } as const;
}

/**
 * Measures speed by llama-bench's procedure: a context just large enough, one warm-up, then for every
 * repetition an empty cache and either one pass over `tokens` tokens or `tokens` passes over one.
 * Calls are synchronous here, so that nothing of this process lies between two of them.
 */
async function measure(
  llama: Llama,
  model: Model,
  kind: Speed["kind"],
  tokens: number,
  repetitions: number,
): Promise<Speed> {
  const context = await model.newContext({ n_ctx: tokens, n_batch: BATCH });
  try {
    const random = randomTokens(model.info.vocabulary);
    const start = (): number => (model.info.addsBos ? model.info.bos : random());
    const buffer = new Int32Array(BATCH);
    const run = (context: Pointer, count: number): void => {
      if (kind === "prompt") {
        for (let done = 0; done < count; done += BATCH) {
          const size = Math.min(BATCH, count - done);
          for (let i = 0; i < size; i++) buffer[i] = done + i === 0 ? start() : random();
          checkDecoded(llama.decode(context, batchOf(buffer, size)), model);
        }
        llama.synchronize(context);
      } else {
        buffer[0] = start();
        const batch = batchOf(buffer, 1);
        for (let done = 0; done < count; done++) {
          checkDecoded(llama.decode(context, batch), model);
          llama.synchronize(context);
          buffer[0] = random();
        }
      }
    };
    run(context, kind === "prompt" ? tokens : 1);
    const samples: number[] = [];
    for (let i = 0; i < repetitions; i++) {
      llama.clearMemory(context, false);
      const before = performance.now();
      run(context, tokens);
      samples.push((tokens * 1000) / (performance.now() - before));
      // Lets the process notice that its parent is gone.
      await nextTurn();
    }
    return summarize(kind, tokens, samples);
  } finally {
    llama.freeContext(context);
  }
}

/** @throws EngineError for counts that are not whole or leave nothing to measure */
export async function bench(llama: Llama, model: Model, options: BenchOptions): Promise<BenchResult> {
  const { promptTokens, generationTokens, repetitions } = options;
  const whole = [promptTokens, generationTokens, repetitions].every((n) => Number.isSafeInteger(n) && n >= 0);
  if (!whole || repetitions === 0 || promptTokens + generationTokens === 0) {
    throw new EngineError(
      "engine-bench",
      `A benchmark of ${promptTokens} prompt and ${generationTokens} generated tokens, ${repetitions} times, measures nothing.`,
      { exitCode: 2 },
    );
  }
  const before = loadavg()[0] ?? 0;
  const speeds: Speed[] = [];
  if (promptTokens > 0) speeds.push(await measure(llama, model, "prompt", promptTokens, repetitions));
  if (generationTokens > 0) {
    speeds.push(await measure(llama, model, "generation", generationTokens, repetitions));
  }
  return { speeds, threads: model.threads, load: [before, loadavg()[0] ?? 0], peakMemory: peakMemory() };
}
