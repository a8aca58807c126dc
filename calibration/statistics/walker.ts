import type { TensorValue } from "../../src/engines/onnx/types.js";
import { expertsInUse } from "../../src/gemma4/graph/feed-forward.js";
import { checkpointStep, encodeGraph, type StepPlace } from "../../src/gemma4/graph/files.js";
import type { Probe } from "../../src/gemma4/graph/steps.js";
import type { Gemma4Config } from "../../src/gemma4/types.js";
import { headWeight, listWeights } from "../../src/gemma4/weights.js";
import { type Batch, makeBatches } from "./batches.js";
import { tokenFrequencies } from "./frequencies.js";
import { type MatrixInput, notingProbe } from "./inputs.js";
import { type MomentPlan, planMoments } from "./moments.js";
import type { WalkOptions } from "./options.js";
import { crossGraph, outputOf, statisticsProbe } from "./probe.js";
import { type Replacement, Replacements } from "./replacements.js";
import { Side } from "./sides.js";
import { StateRoom } from "./states.js";
import { InputSums } from "./sums.js";
import type { StepStatistics } from "./types.js";

/** From so many runs on it pays to copy weights into the order that the runtime's kernels like. */
export const PREPACK_RUNS = 4;

/** A step of a side that is open in the runtime. */
interface OpenStep {
  readonly side: Side;
  readonly place: StepPlace;
  readonly session: number;
}

/** What to take of a run. */
interface Taken {
  /** Whether later steps read what it gives. */
  readonly write: boolean;
  readonly fetch?: readonly string[];
  readonly keep?: Readonly<Record<string, string>>;
}

/** A walk under way: see `walkLayers`. */
export class Walker {
  /** Steps: embeddings, layers, and the norm before the output matrix. */
  readonly steps: number;
  readonly #options: WalkOptions;
  readonly #config: Gemma4Config;
  readonly #batches: readonly Batch[];
  readonly #room: StateRoom;
  readonly #replacements: Replacements;
  /** The model whose inputs are looked at. */
  readonly #main: Side;
  /** The unrounded one beside it, where moments between both are summed. */
  readonly #other: Side | null;
  #first = 0;
  /** Of the step under way. */
  #tokens = 0;
  #milliseconds = 0;

  private constructor(options: WalkOptions) {
    const { config } = options.checkpoint;
    this.#options = options;
    this.#config = config;
    this.steps = config.layers.length + 2;
    const vocabulary =
      config.perLayerWidth > 0 ? Math.min(config.vocabulary, config.perLayerVocabulary) : config.vocabulary;
    this.#batches = makeBatches(options.windows, vocabulary);
    const room = new StateRoom({
      folder: options.scratch,
      memory: options.stateMemory,
      batches: this.#batches.map(({ tokens }) => tokens),
    });
    this.#room = room;
    this.#replacements = new Replacements(options.scratch, [...listWeights(config), headWeight(config)]);
    const common = { config, room, kept: options.resumable === true };
    this.#main = new Side({ ...common, name: "states", replaced: this.#replacements.paths });
    this.#other =
      options.cross === true ? new Side({ ...common, name: "unrounded", replaced: new Map() }) : null;
  }

  /** Gets ready, behind the steps that are done where their states are still there. */
  static async start(options: WalkOptions): Promise<Walker> {
    const walker = new Walker(options);
    try {
      if (options.replaced !== undefined) await walker.#replacements.add(options.replaced);
      if (options.resumable === true) await walker.#resume(options.done ?? 0);
      return walker;
    } catch (error) {
      await walker.end(false);
      throw error;
    }
  }

  /** The first step to be done. */
  get first(): number {
    return this.#first;
  }

  /** The unrounded one first. */
  get #sides(): Side[] {
    return this.#other === null ? [this.#main] : [this.#other, this.#main];
  }

  #place(index: number): StepPlace {
    if (index === 0) return "embedding";
    return this.#config.layers[index - 1] ?? "head";
  }

  /** Runs a step and sums what its matrices read. */
  async look(index: number): Promise<StepStatistics> {
    const { checkpoint, windows } = this.#options;
    this.#tokens = 0;
    this.#milliseconds = 0;
    const place = this.#place(index);
    const inputs: MatrixInput[] = [];
    await checkpointStep(checkpoint, place, notingProbe(inputs), this.#main.replaced);
    const plans = this.#planMoments(inputs);
    const sums = inputs.map((input) => new InputSums(input, plans.get(input.name), this.#other !== null));
    await this.#sum(index, sums, plans);
    return {
      index,
      kind: typeof place === "string" ? place : "layer",
      layer: layerOf(place),
      statistics: sums.map((each) => each.finish()),
      frequencies: place === "embedding" ? tokenFrequencies(checkpoint, windows) : [],
    };
  }

  /** Goes on to the next step, with weights that were replaced meanwhile. */
  async leave(index: number, replaced: ReadonlyMap<string, Replacement>): Promise<void> {
    const place = this.#place(index);
    await this.#replacements.add(replaced, layerOf(place));
    if (this.#options.order === "sequential" && place !== "head") {
      await this.#main.begin(index, place);
      await this.#withSteps(place, null, [this.#main], async ([step]) =>
        this.#eachBatch(index, (number) => this.#run(step!, number, { write: true })),
      );
      await this.#main.finish(place);
    }
    if (typeof place !== "string") await this.#replacements.forget(place.index);
    for (const side of this.#sides) await side.clean();
  }

  /** @param whole whether all steps are done, and nothing needs to be kept */
  async end(whole: boolean): Promise<void> {
    await this.#replacements.forget();
    await this.#room.end(this.#options.resumable === true && !whole ? "close" : "remove");
  }

  #planMoments(inputs: readonly MatrixInput[]): Map<string, MomentPlan> {
    const { moments, windows } = this.#options;
    if (moments === null) return new Map();
    const { wanted = () => true } = moments;
    const demands = inputs
      .filter(({ weights }) => wanted(weights))
      .map(({ name, columns, experts }) => ({ input: name, columns, count: Math.max(1, experts) }));
    const lengths = new Set(windows.map(({ length }) => length));
    return planMoments(demands, { ...moments, lengths, cross: this.#other !== null });
  }

  async #sum(
    index: number,
    sums: readonly InputSums[],
    plans: ReadonlyMap<string, MomentPlan>,
  ): Promise<void> {
    const place = this.#place(index);
    const others = this.#other;
    const onward = place !== "head";
    const writesMain = onward && this.#options.order === "parallel";
    const crossed = new Map(
      sums.flatMap(({ input, crossOutputs }) =>
        crossOutputs.length > 0 ? [[input.name, plans.get(input.name)!] as const] : [],
      ),
    );
    const rows = [...crossed.keys()].map((name) => outputOf.rows(name));
    const othersRows = [...crossed.keys()].map((name) => outputOf.others(name));
    const layer = layerOf(place);
    const inUse = layer === null ? "" : expertsInUse(layer);
    const fetch = sums.flatMap((each) => each.outputs);
    if (sums.some(({ input }) => input.experts > 0)) fetch.push(inUse);
    const probe = (side: Side): Probe =>
      statisticsProbe({
        moments: plans,
        gives: side !== this.#main ? "rows" : rows.length > 0 ? "both" : "all",
      });
    if (writesMain) await this.#main.begin(index, place);
    if (onward) await others?.begin(index, place);
    await this.#withSteps(place, probe, this.#sides, async (steps) => {
      const main = steps.at(-1)!;
      await this.#withCross(crossed, async (cross) => {
        await this.#eachBatch(index, async (number, { tokens }) => {
          if (others !== null) {
            const keep = zip(rows, othersRows);
            await this.#run(steps[0]!, number, { write: onward, keep });
          }
          const found = await this.#run(main, number, { write: writesMain, fetch, keep: zip(rows, rows) });
          for (const each of sums) each.add(found, tokens, inUse);
          if (cross === null) return;
          const between = await this.#runCross(cross, [...rows, ...othersRows], sums);
          for (const each of sums) each.addCross(between, tokens);
        });
      });
    });
    if (writesMain) await this.#main.finish(place);
    if (onward) await others?.finish(place);
  }

  /** Opens the graph of moments between both models, where there are any. */
  async #withCross(
    crossed: ReadonlyMap<string, MomentPlan>,
    use: (session: number | null) => Promise<void>,
  ): Promise<void> {
    if (crossed.size === 0) {
      await use(null);
      return;
    }
    const { engine, threads } = this.#options;
    const name = "moments between two models";
    const model = await encodeGraph(crossGraph(crossed));
    const { session } = await engine.open({ model, threads, name });
    try {
      await use(session);
    } finally {
      await this.#close([session]);
    }
  }

  async #runCross(
    session: number,
    kept: readonly string[],
    sums: readonly InputSums[],
  ): Promise<Record<string, TensorValue>> {
    const { engine } = this.#options;
    const found = await engine.run(session, {
      feeds: Object.fromEntries(kept.map((name) => [name, { kept: name }])),
      fetch: sums.flatMap(({ crossOutputs }) => crossOutputs),
      ...this.#signal,
    });
    await engine.drop(kept);
    return found;
  }

  /** Runs a batch through a step. */
  async #run(
    { side, place, session }: OpenStep,
    number: number,
    { write, fetch = [], keep = {} }: Taken,
  ): Promise<Record<string, TensorValue>> {
    const wanted = [...fetch, ...(write ? side.outputs(place) : [])];
    if (wanted.length === 0 && Object.keys(keep).length === 0) return {};
    const found = await this.#options.engine.run(session, {
      feeds: await side.feeds(place, number, this.#batches[number]!),
      fetch: wanted,
      keep,
      ...this.#signal,
    });
    if (write) await side.write(place, number, found);
    return found;
  }

  get #signal(): { readonly signal?: AbortSignal } {
    const { signal } = this.#options;
    return signal === undefined ? {} : { signal };
  }

  /** Opens a step of some sides, and closes them when it is done. */
  async #withSteps(
    place: StepPlace,
    probe: ((side: Side) => Probe) | null,
    sides: readonly Side[],
    use: (steps: readonly OpenStep[]) => Promise<void>,
  ): Promise<void> {
    const { engine, threads, checkpoint } = this.#options;
    const steps: OpenStep[] = [];
    try {
      for (const side of sides) {
        const { model, folder } = await checkpointStep(
          checkpoint,
          place,
          probe && probe(side),
          side.replaced,
        );
        const { session } = await engine.open({
          model: await encodeGraph(model),
          folder,
          name: typeof place === "string" ? place : `layer ${place.index}`,
          threads,
          prepack: this.#batches.length >= PREPACK_RUNS,
          ...this.#signal,
        });
        steps.push({ side, place, session });
      }
      await use(steps);
    } finally {
      await this.#close(steps.map(({ session }) => session));
    }
  }

  async #close(sessions: readonly number[]): Promise<void> {
    for (const session of sessions) {
      // An engine that was stopped has none open any more, and the reason for that is on its way.
      await this.#options.engine.close(session).catch(() => {});
    }
  }

  /** Does some work for each batch and tells how far the step is. */
  async #eachBatch(index: number, work: (number: number, batch: Batch) => Promise<unknown>): Promise<void> {
    const { signal, onProgress, order } = this.#options;
    const place = this.#place(index);
    const all = this.#batches.reduce((sum, { tokens }) => sum + tokens, 0);
    for (const [number, batch] of this.#batches.entries()) {
      signal?.throwIfAborted();
      const start = performance.now();
      await work(number, batch);
      this.#milliseconds += performance.now() - start;
      this.#tokens += batch.tokens;
      onProgress?.({
        index,
        steps: this.steps,
        layer: layerOf(place),
        tokens: this.#tokens,
        total: order === "sequential" && place !== "head" ? 2 * all : all,
        seconds: this.#milliseconds / 1000,
      });
    }
  }

  /** Looks for the states of the last of the steps that are done, and for what else the next ones read. */
  async #resume(done: number): Promise<void> {
    let last = Math.min(done - 1, this.#config.layers.length);
    while (last >= 0 && !(await this.#find(last))) last--;
    this.#first = done >= this.steps ? this.steps : last + 1;
    for (const side of this.#sides) await side.discardOthers(last);
  }

  async #find(index: number): Promise<boolean> {
    const found: boolean[] = [];
    for (const side of this.#sides) found.push(await side.find(index));
    if (found.every(Boolean)) return true;
    await this.#room.end("close");
    for (const side of this.#sides) side.forget();
    return false;
  }
}

function layerOf(place: StepPlace): number | null {
  return typeof place === "string" ? null : place.index;
}

function zip(keys: readonly string[], values: readonly string[]): Record<string, string> {
  return Object.fromEntries(keys.map((key, index) => [key, values[index]!]));
}
