import type { BenchResult, Engine, EngineInfo, ModelInfo } from "../engines/types.js";

export interface ThroughputOptions {
  /** Starts a fresh engine: its peak memory is then that of this one file. */
  readonly startEngine: () => Promise<Engine>;
  readonly path: string;
  readonly threads: number;
  /** 512 when left out, as in llama-bench. */
  readonly promptTokens?: number;
  /** 128 when left out. */
  readonly generationTokens?: number;
  /** 5 when left out. */
  readonly repetitions?: number;
  readonly signal?: AbortSignal;
}

export interface Throughput extends BenchResult {
  readonly engine: EngineInfo;
  readonly model: ModelInfo;
}

/**
 * Speed and memory of one file, in an engine process of its own: tokens a second of a prompt and of
 * generation, the machine's load before and after, and the largest resident memory of the process.
 */
export async function measureThroughput(options: ThroughputOptions): Promise<Throughput> {
  const { promptTokens = 512, generationTokens = 128, repetitions = 5, threads, path, signal } = options;
  signal?.throwIfAborted();
  const engine = await options.startEngine();
  try {
    const { handle, model } = await engine.load(path, {
      threads,
      context: Math.max(promptTokens, generationTokens),
    });
    const bench = await engine.bench(handle, {
      promptTokens,
      generationTokens,
      repetitions,
      ...(signal === undefined ? {} : { signal }),
    });
    return { ...bench, engine: await engine.info(), model };
  } finally {
    await engine.close();
  }
}
