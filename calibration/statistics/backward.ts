import type { Feed, TensorValue } from "../../src/engines/onnx/types.js";
import { gradientOf, HEAD, laterGradientOf } from "../../src/gemma4/graph/backward.js";
import {
  checkpointGradient,
  checkpointStep,
  encodeGraph,
  type StepGraph,
  type StepPlace,
} from "../../src/gemma4/graph/files.js";
import { isShared, sharedNames, sourceLayer, STEP } from "../../src/gemma4/graph/steps.js";
import type { Gemma4Config, LayerConfig } from "../../src/gemma4/types.js";
import { type Batch, idsOf, makeBatches } from "./batches.js";
import type { CurvatureOptions } from "./curvature.js";
import { drawNumber } from "./draws.js";
import { StatisticsError } from "./errors.js";
import { gradientStatisticsProbe, notingGradientProbe, type ProductRows } from "./gradient-probe.js";
import { type MomentPlan, planMoments } from "./moments.js";
import { StateRoom, type States } from "./states.js";
import { InputSums } from "./sums.js";
import type { StepStatistics } from "./types.js";
import { PREPACK_RUNS } from "./walker.js";

/**
 * Tokens that run at once: a layer and the way back through it hold about ten values for each value of its widest
 * part, which at 21,504 columns (31B) are 1.8 GB.
 */
const BATCH_TOKENS = 2048;

/** Values of the size of the logits at a time: logits before and behind the soft cap, probabilities, sums, gradients. */
const LOGIT_COPIES = 6;

type Fetched = Record<string, TensorValue>;

/** What a batch of a step is run with. */
interface Run {
  readonly feeds: Readonly<Record<string, Feed>>;
  readonly fetch: readonly string[];
}

/** Keys and values of a layer that later ones take, and what comes back to them. */
interface SharedStates {
  readonly key: States;
  readonly value: States;
  keyGradient: States | null;
  valueGradient: States | null;
}

/** The way through a model and back: see `walkBack`. */
export class BackwardWalk {
  /** Steps of the way back: the head and the layers. */
  readonly steps: number;
  readonly #options: CurvatureOptions;
  readonly #config: Gemma4Config;
  readonly #batches: readonly Batch[];
  readonly #room: StateRoom;
  /** What each layer reads, and last what the head reads. */
  readonly #states: States[] = [];
  readonly #shared = new Map<number, SharedStates>();
  /** Of the gradients of what the step before gave. */
  #gradients: States | null = null;
  #progress = { index: 0, tokens: 0, milliseconds: 0 };

  /** @throws StatisticsError for windows and ids that are none */
  constructor(options: CurvatureOptions) {
    const { checkpoint, windows } = options;
    const short = windows.findIndex(({ length }) => length < 2);
    if (short !== -1) {
      throw new StatisticsError(
        "window-size",
        `window ${short} has ${windows[short]!.length} tokens, expected two or more`,
      );
    }
    this.#options = options;
    this.#config = checkpoint.config;
    this.steps = this.#config.layers.length + 1;
    this.#batches = makeBatches(windows, this.#config.vocabulary, BATCH_TOKENS);
    this.#room = new StateRoom({
      folder: options.scratch,
      memory: options.stateMemory,
      batches: this.#batches.map(({ tokens }) => tokens),
    });
  }

  async end(): Promise<void> {
    await this.#room.end("remove");
  }

  /** Runs all layers and keeps what each of them reads. */
  async forward(): Promise<void> {
    for (const [index, place] of (["embedding", ...this.#config.layers] as const).entries()) {
      const next = await this.#room.make(`states-${index}`, this.#config.hidden, false);
      const shared = typeof place === "string" ? [] : await this.#makeShared(place);
      const graph = await checkpointStep(this.#options.checkpoint, place, null, new Map());
      const fetch = [STEP.next, ...shared.map(([name]) => name)];
      await this.#withSession(graph, place, async (session) => {
        for (const number of this.#batches.keys()) {
          await this.#timed(index, number, async () => {
            const found = await this.#run(session, { feeds: await this.#feeds(place, number), fetch });
            await next.write(number, floatsOf(found, STEP.next));
            for (const [name, states] of shared) await states.write(number, floatsOf(found, name));
          });
        }
      });
      this.#states.push(next);
    }
  }

  /** Room for the keys and values of a layer that later ones take, by their names. */
  async #makeShared(layer: LayerConfig): Promise<(readonly [string, States])[]> {
    if (!isShared(this.#config, layer)) return [];
    const width = layer.kvHeads * layer.headDim;
    const key = await this.#room.make(`keys-${layer.index}`, width, false);
    const value = await this.#room.make(`values-${layer.index}`, width, false);
    this.#shared.set(layer.index, { key, value, keyGradient: null, valueGradient: null });
    const names = sharedNames(layer);
    return [
      [names.key, key],
      [names.value, value],
    ];
  }

  /**
   * Goes back through a step: 0 is the head, and the last layer follows.
   *
   * @throws StatisticsError `not-finite`
   */
  async back(index: number): Promise<StepStatistics> {
    const { checkpoint, labels } = this.#options;
    const place = index === 0 ? "head" : this.#config.layers.at(-index)!;
    const products: ProductRows[] = [];
    await checkpointGradient(checkpoint, place, kindOf(labels), notingGradientProbe(products));
    const plans = this.#planMoments(products, place === "head");
    const rows = products.flatMap(({ gradients, inputs }) => [gradients, inputs]);
    const sums = rows.map((input) => new InputSums(input, plans.get(input.name), false));
    const graph = await checkpointGradient(checkpoint, place, kindOf(labels), gradientStatisticsProbe(plans));
    await this.#withSession(graph, place, async (session) => {
      if (place === "head") await this.#backHead(session, sums);
      else await this.#backLayer(session, place, index, sums);
    });
    return {
      index,
      kind: place === "head" ? "head" : "layer",
      layer: place === "head" ? null : place.index,
      statistics: sums.map((each) => each.finish()),
      frequencies: [],
    };
  }

  #planMoments(products: readonly ProductRows[], head: boolean): Map<string, MomentPlan> {
    const { moments, windows } = this.#options;
    if (moments === null) return new Map();
    const { wanted = () => true } = moments;
    const demands = products
      .flatMap(({ gradients, inputs }) => (head ? [inputs] : [gradients, inputs]))
      .filter(({ weights }) => wanted(weights))
      .map(({ name, columns }) => ({ input: name, columns, count: 1 }));
    return planMoments(demands, { ...moments, lengths: new Set(windows.map(({ length }) => length)) });
  }

  /** The head, some tokens at a time: of each window all but the last, which the text says nothing behind. */
  async #backHead(session: number, sums: readonly InputSums[]): Promise<void> {
    const { hidden, vocabulary } = this.#config;
    const states = this.#states.pop()!;
    const gradients = await this.#room.make("gradients", hidden, false);
    const most = Math.floor(this.#options.logitMemory / (vocabulary * LOGIT_COPIES * 4));
    const chunk = Math.max(1, most);
    let before = 0;
    for (const [number, batch] of this.#batches.entries()) {
      await this.#timed(this.steps, number, async () => {
        const all = await states.read(number);
        const whole = new Float32Array(all.length);
        const scored = scoredPlaces(batch);
        for (let start = 0; start < scored.length; start += chunk) {
          const places = scored.slice(start, start + chunk);
          const found = await this.#run(session, {
            feeds: this.#headFeeds(all, batch, places, before),
            fetch: [gradientOf(STEP.states), ...sums.flatMap(({ outputs }) => outputs)],
          });
          const own = floatsOf(found, gradientOf(STEP.states));
          for (const [row, place] of places.entries()) {
            whole.set(own.subarray(row * hidden, (row + 1) * hidden), place * hidden);
          }
          for (const each of sums) each.add(found, places.length, "");
        }
        await gradients.write(number, whole);
        before += batch.tokens;
      });
    }
    await this.#room.remove(states);
    this.#gradients = gradients;
  }

  /**
   * @param all states of a batch
   * @param places tokens of the batch
   * @param before tokens of all batches before this one
   */
  #headFeeds(
    all: Float32Array,
    batch: Batch,
    places: readonly number[],
    before: number,
  ): Record<string, Feed> {
    const { hidden } = this.#config;
    const data = new Float32Array(places.length * hidden);
    for (const [row, place] of places.entries()) {
      data.set(all.subarray(place * hidden, (place + 1) * hidden), row * hidden);
    }
    const dims = [1, places.length];
    const { labels, seed } = this.#options;
    const states: Feed = { type: "float32", dims: [...dims, hidden], data };
    if (labels === "drawn") {
      const draws = Float32Array.from(places, (place) => drawNumber(seed, before + place));
      return { [STEP.states]: states, [HEAD.draws]: { type: "float32", dims, data: draws } };
    }
    const ids = idsOf(batch);
    const next = BigInt64Array.from(places, (place) => ids[place + 1]!);
    return { [STEP.states]: states, [HEAD.labels]: { type: "int64", dims, data: next } };
  }

  async #backLayer(
    session: number,
    layer: LayerConfig,
    index: number,
    sums: readonly InputSums[],
  ): Promise<void> {
    const states = this.#states.at(-1)!;
    const gradients = this.#gradients!;
    const source = sourceLayer(this.#config, layer);
    const handed = await this.#handedBack(source ?? layer);
    const fetch = [
      gradientOf(STEP.states),
      ...(source === null ? [] : handed.map(([name]) => gradientOf(name))),
      ...sums.flatMap(({ outputs }) => outputs),
    ];
    for (const [number, batch] of this.#batches.entries()) {
      await this.#timed(this.steps + index, number, async () => {
        const [windows, tokens] = batch.dims;
        const feeds = await this.#feeds(layer, number);
        feeds[laterGradientOf(STEP.next)] = {
          type: "float32",
          dims: [windows, tokens, this.#config.hidden],
          data: await gradients.read(number),
        };
        const { kvHeads, headDim } = source ?? layer;
        for (const [name, later] of handed) {
          const dims = [windows, kvHeads, tokens, headDim];
          feeds[laterGradientOf(name)] = { type: "float32", dims, data: await later.read(number) };
        }
        const found = await this.#run(session, { feeds, fetch });
        await gradients.write(number, floatsOf(found, gradientOf(STEP.states)));
        if (source !== null) {
          for (const [name, later] of handed) await later.write(number, floatsOf(found, gradientOf(name)));
        }
        for (const each of sums) each.add(found, batch.tokens - windows, "");
      });
    }
    this.#states.pop();
    await this.#room.remove(states);
    if (source === null) await this.#forgetShared(layer);
  }

  /** What later layers hand back to the keys and values of a layer, by their names: zeros at first. */
  async #handedBack(layer: LayerConfig): Promise<(readonly [string, States])[]> {
    const shared = this.#shared.get(layer.index);
    if (shared === undefined) return [];
    const { key, value } = sharedNames(layer);
    shared.keyGradient ??= await this.#zeros(`key-gradients-${layer.index}`, layer);
    shared.valueGradient ??= await this.#zeros(`value-gradients-${layer.index}`, layer);
    return [
      [key, shared.keyGradient],
      [value, shared.valueGradient],
    ];
  }

  async #zeros(name: string, { kvHeads, headDim }: LayerConfig): Promise<States> {
    const width = kvHeads * headDim;
    const states = await this.#room.make(name, width, false);
    for (const [number, { tokens }] of this.#batches.entries()) {
      await states.write(number, new Float32Array(tokens * width));
    }
    return states;
  }

  async #forgetShared({ index }: LayerConfig): Promise<void> {
    const shared = this.#shared.get(index);
    if (shared === undefined) return;
    this.#shared.delete(index);
    for (const states of [shared.key, shared.value, shared.keyGradient, shared.valueGradient]) {
      if (states !== null) await this.#room.remove(states);
    }
  }

  /** What a step reads of a batch on the way forward. */
  async #feeds(place: Exclude<StepPlace, "head">, number: number): Promise<Record<string, Feed>> {
    const batch = this.#batches[number]!;
    const [windows, tokens] = batch.dims;
    const { hidden, perLayerWidth } = this.#config;
    const feeds: Record<string, Feed> = {};
    if (place === "embedding" || perLayerWidth > 0) {
      feeds[STEP.ids] = { type: "int64", dims: batch.dims, data: idsOf(batch) };
    }
    if (place === "embedding") return feeds;
    const data = await this.#states.at(-1)!.read(number);
    feeds[STEP.states] = { type: "float32", dims: [windows, tokens, hidden], data };
    const source = sourceLayer(this.#config, place);
    if (source === null) return feeds;
    const shared = this.#shared.get(source.index)!;
    const names = sharedNames(source);
    const dims = [windows, source.kvHeads, tokens, source.headDim];
    feeds[names.key] = { type: "float32", dims, data: await shared.key.read(number) };
    feeds[names.value] = { type: "float32", dims, data: await shared.value.read(number) };
    return feeds;
  }

  async #run(session: number, { feeds, fetch }: Run): Promise<Fetched> {
    const { engine, signal } = this.#options;
    return engine.run(session, { feeds, fetch, ...(signal === undefined ? {} : { signal }) });
  }

  async #withSession(
    { model, folder }: StepGraph,
    place: StepPlace,
    use: (session: number) => Promise<void>,
  ): Promise<void> {
    const { engine, threads, signal } = this.#options;
    signal?.throwIfAborted();
    const { session } = await engine.open({
      model: await encodeGraph(model),
      folder,
      name: typeof place === "string" ? place : `layer ${place.index}`,
      threads,
      prepack: this.#batches.length >= PREPACK_RUNS,
      ...(signal === undefined ? {} : { signal }),
    });
    await use(session);
    await engine.close(session);
  }

  /** Does one batch's work and tells how far the step is: those of the way forward come first. */
  async #timed(index: number, number: number, work: () => Promise<void>): Promise<void> {
    const { signal, onProgress } = this.#options;
    signal?.throwIfAborted();
    if (index !== this.#progress.index) this.#progress = { index, tokens: 0, milliseconds: 0 };
    const start = performance.now();
    await work();
    this.#progress.milliseconds += performance.now() - start;
    this.#progress.tokens += this.#batches[number]!.tokens;
    const { layers } = this.#config;
    const layer = index < this.steps ? index - 1 : layers.length - (index - this.steps);
    onProgress?.({
      index,
      steps: 2 * this.steps,
      layer: layers[layer]?.index ?? null,
      tokens: this.#progress.tokens,
      total: this.#batches.reduce((sum, { tokens }) => sum + tokens, 0),
      seconds: this.#progress.milliseconds / 1000,
    });
  }
}

function kindOf(labels: CurvatureOptions["labels"]): "drawn" | "given" {
  return labels === "drawn" ? "drawn" : "given";
}

/** Places of the tokens of a batch that another one follows. */
function scoredPlaces({ dims: [windows, tokens] }: Batch): number[] {
  return Array.from({ length: windows * tokens }, (_, place) => place).filter(
    (place) => (place + 1) % tokens !== 0,
  );
}

function floatsOf(found: Fetched, name: string): Float32Array {
  const value = found[name];
  if (value?.type !== "float32") throw new RangeError(`the run gave no floats under ${name}`);
  return value.data;
}
