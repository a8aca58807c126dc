import { isDeepStrictEqual } from "node:util";
import type {
  Engine,
  LoadOptions,
  ModelInfo,
  ScoreOptions,
  Window,
  WindowScores,
} from "../../src/engines/types.js";
import { pairColumns } from "../../src/verify/visitor.js";

const visitor = new URL("./visitors/each-against-first.mjs", import.meta.url);

interface Scored {
  readonly windows: readonly Window[];
  readonly scores: Promise<WindowScores[]>;
}

/**
 * An engine for many measurements against one reference: the first one runs the reference and all candidates over the
 * windows, and the others take their scores from that. Half of their time would go into the reference.
 */
export class SideBySide implements Engine {
  readonly #engine: Engine;
  readonly #candidates: readonly string[];
  readonly #loaded = new Map<string, ReturnType<Engine["load"]>>();
  readonly #paths = new Map<number, string>();
  readonly #scored: Scored[] = [];
  #options: LoadOptions = { threads: 1, context: 512 };

  /** @param candidates paths of all files that will be measured */
  constructor(engine: Engine, candidates: readonly string[]) {
    this.#engine = engine;
    this.#candidates = candidates;
  }

  info = (): ReturnType<Engine["info"]> => this.#engine.info();
  tokenize: Engine["tokenize"] = (...args) => this.#engine.tokenize(...args);
  bench: Engine["bench"] = (...args) => this.#engine.bench(...args);
  peakMemory = (): Promise<number> => this.#engine.peakMemory();
  close = (): Promise<void> => this.#engine.close();

  /** Loads a file once, with the options of the last call. */
  async load(path: string, options: LoadOptions): Promise<{ handle: number; model: ModelInfo }> {
    this.#options = options;
    const loading = this.#loaded.get(path) ?? this.#engine.load(path, options);
    this.#loaded.set(path, loading);
    const loaded = await loading;
    this.#paths.set(loaded.handle, path);
    return loaded;
  }

  /** Files stay loaded until the engine is closed. */
  async unload(): Promise<void> {}

  async score(
    handles: readonly number[],
    windows: readonly Window[],
    options: ScoreOptions,
  ): Promise<WindowScores[]> {
    const [reference = -1, candidate = -1] = handles;
    const place = this.#candidates.indexOf(this.#paths.get(candidate) ?? "");
    if (handles.length !== 2 || place === -1)
      throw new Error("a reference and a known candidate are expected");
    let found = this.#scored.find((each) => isDeepStrictEqual(each.windows, windows));
    if (found === undefined) {
      const others: number[] = [];
      for (const path of this.#candidates) others.push((await this.load(path, this.#options)).handle);
      found = {
        windows,
        scores: this.#engine.score([reference, ...others], windows, { ...options, visitor }),
      };
      this.#scored.push(found);
    }
    return (await found.scores).map(({ columns, values }) => {
      const rows = values.length / columns;
      const own = new Float64Array(rows * pairColumns);
      for (let row = 0; row < rows; row++) {
        const from = row * columns + place * pairColumns;
        own.set(values.subarray(from, from + pairColumns), row * pairColumns);
      }
      return { columns: pairColumns, values: own };
    });
  }
}
