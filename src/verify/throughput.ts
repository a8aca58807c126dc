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
  const stop = (): void => void engine.close().catch(() => undefined);
  signal?.addEventListener("abort", stop, { once: true });
  try {
    const { handle, model } = await engine.load(path, {
      threads,
      context: Math.max(promptTokens, generationTokens),
    });
    const bench = await engine.bench(handle, { promptTokens, generationTokens, repetitions });
    return { ...bench, peakMemory: await engine.peakMemory(), engine: await engine.info(), model };
  } catch (error) {
    // Closing the engine under a running call makes the call fail; what the caller asked for comes first.
    signal?.throwIfAborted();
    throw error;
  } finally {
    signal?.removeEventListener("abort", stop);
    await engine.close();
  }
}
