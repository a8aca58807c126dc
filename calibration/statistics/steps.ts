import { encodeGraph, checkpointStep, type StepPlace } from "../../src/gemma4/graph/files.js";
import { expertsInUse } from "../../src/gemma4/graph/feed-forward.js";
import { isShared, type Probe, sharedNames, sourceLayer, STEP } from "../../src/gemma4/graph/steps.js";
import type { Feed, TensorValue } from "../../src/engines/onnx/types.js";
import type { Gemma4Config, LayerConfig } from "../../src/gemma4/types.js";
import { headWeight, listWeights } from "../../src/gemma4/weights.js";
import { type Batch, idsOf, makeBatches } from "./batches.js";
import { tokenFrequencies } from "./frequencies.js";
import { type MatrixInput, notingProbe } from "./inputs.js";
import { type MomentPlan, planMoments } from "./moments.js";
import { crossGraph, outputOf, statisticsProbe } from "./probe.js";
import { type Replacement, Replacements } from "./replacements.js";
import { StateRoom, type States } from "./states.js";
import { InputSums } from "./sums.js";
import type { StepStatistics } from "./types.js";
import type { WalkOptions } from "./walk.js";

/** From so many runs on it pays to copy weights into the order that the runtime's kernels like. */
const PREPACK_RUNS = 4;

/** A model that is walked through: the checkpoint's own, or the one with replaced weights. */
interface Side {
  /** Start of the names of its states. */
  readonly name: string;
  /** Files of replaced weights. */
  readonly replaced: ReadonlyMap<string, string>;
  /** What the next step reads. */
  states: States | null;
  /** By layer, keys and values for later ones. */
  readonly shared: Map<number, { readonly key: States; readonly value: States }>;
}

/** A step of a side that is open in the runtime. */
interface OpenStep {
  readonly side: Side;
  readonly session: number;
}

/** A walk under way: see `walkLayers`. */
export class Walk {
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
  /** States that the step under way was made from. */
  #obsolete: States[] = [];
  #first = 0;
  #tokens = 0;
  #milliseconds = 0;

  private constructor(options: WalkOptions) {
    this.#options = options;
    this.#config = options.checkpoint.config;
    this.steps = this.#config.layers.length + 2;
    this.#batches = makeBatches(options.windows, this.#config.vocabulary);
    this.#room = new StateRoom({
      folder: options.scratch,
      memory: options.stateMemory,
      batches: this.#batches.map(({ tokens }) => tokens),
    });
    this.#replacements = new Replacements(options.scratch, [
      ...listWeights(this.#config),
      headWeight(this.#config),
    ]);
    this.#main = sideOf("states", this.#replacements.paths);
    this.#other = options.cross === true ? sideOf("unrounded", new Map()) : null;
  }

  /** Gets ready, behind the steps that are done where their states are still there. */
  static async start(options: WalkOptions): Promise<Walk> {
    const walk = new Walk(options);
    try {
      if (options.replaced !== undefined) await walk.#replacements.add(options.replaced);
      if (options.resumable === true) await walk.#resume(options.done ?? 0);
      return walk;
    } catch (error) {
      await walk.end(false);
      throw error;
    }
  }

  /** The first step to be done. */
  get first(): number {
    return this.#first;
  }

  get #sides(): Side[] {
    return this.#other === null ? [this.#main] : [this.#other, this.#main];
  }

  #place(index: number): StepPlace {
    if (index === 0) return "embedding";
    return this.#config.layers[index - 1] ?? "head";
  }

  /** Runs a step and sums what its matrices read. */
  async look(index: number): Promise<StepStatistics> {
    this.#tokens = 0;
    this.#milliseconds = 0;
    const place = this.#place(index);
    const inputs: MatrixInput[] = [];
    await checkpointStep(this.#options.checkpoint, place, notingProbe(inputs), this.#main.replaced);
    const plans = this.#planMoments(inputs);
    const sums = inputs.map((input) => new InputSums(input, plans.get(input.name), this.#other !== null));
    await this.#sum(index, place, sums, plans);
    const layer = typeof place === "string" ? null : place.index;
    return {
      index,
      kind: typeof place === "string" ? place : "layer",
      layer,
      statistics: sums.map((each) => each.finish()),
      frequencies:
        place === "embedding" ? tokenFrequencies(this.#options.checkpoint, this.#options.windows) : [],
    };
  }

  /** Goes on to the next step, with weights that were replaced meanwhile. */
  async leave(index: number, replaced: ReadonlyMap<string, Replacement>): Promise<void> {
    const place = this.#place(index);
    await this.#replacements.add(replaced);
    if (this.#options.order === "sequential" && place !== "head") {
      const next = await this.#makeNext(this.#main, index);
      await this.#withSteps(place, null, [this.#main], async ([step]) => {
        for (const [number, batch] of this.#batches.entries()) {
          await this.#timed(index, batch, () => this.#run(step!, place, number, { next }));
        }
      });
      await this.#finish(this.#main, place, next);
    }
    if (typeof place !== "string") await this.#replacements.forget(place.index);
    for (const states of this.#obsolete.splice(0)) await this.#room.remove(states);
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
    return planMoments(demands, { ...moments, lengths });
  }

  async #sum(
    index: number,
    place: StepPlace,
    sums: readonly InputSums[],
    plans: ReadonlyMap<string, MomentPlan>,
  ): Promise<void> {
    const parallel = this.#options.order === "parallel";
    const outputs = sums.flatMap((each) => each.outputs);
    const layer = typeof place === "string" ? null : place.index;
    const hasExperts = sums.some(({ input }) => input.experts > 0);
    const inUse = layer === null || !hasExperts ? "" : expertsInUse(layer);
    const fetch = inUse === "" ? outputs : [...outputs, inUse];
    const crossed = new Map(
      sums.flatMap(({ input, crossOutputs }) =>
        crossOutputs.length > 0 ? [[input.name, plans.get(input.name)!] as const] : [],
      ),
    );
    const rows = [...crossed.keys()];
    const others = this.#other;
    const gives = crossed.size > 0 ? "both" : "all";
    const next = parallel && place !== "head" ? await this.#makeNext(this.#main, index) : null;
    const otherNext = others === null || place === "head" ? null : await this.#makeNext(others, index);
    const probes = (side: Side): Probe =>
      statisticsProbe({ moments: plans, gives: side === this.#main ? gives : "rows" });
    const cross = crossed.size === 0 ? null : await this.#openCross(crossed);
    await this.#withSteps(place, probes, this.#sides, async (steps) => {
      const main = steps.at(-1)!;
      for (const [number, batch] of this.#batches.entries()) {
        await this.#timed(index, batch, async () => {
          if (others !== null) {
            const keep = Object.fromEntries(rows.map((name) => [outputOf.rows(name), outputOf.others(name)]));
            await this.#run(steps[0]!, place, number, { next: otherNext, keep });
          }
          const keep = Object.fromEntries(rows.map((name) => [outputOf.rows(name), outputOf.rows(name)]));
          const found = await this.#run(main, place, number, { next, fetch, keep });
          for (const each of sums) each.add(found, batch.tokens, inUse);
          if (cross === null) return;
          const between = await this.#runCross(cross, rows, sums);
          for (const each of sums) each.addCross(between, batch.tokens);
        });
      }
    });
    if (cross !== null) await this.#options.engine.close(cross);
    if (others !== null) await this.#finish(others, place, otherNext);
    await this.#finish(this.#main, place, next);
  }

  async #openCross(crossed: ReadonlyMap<string, MomentPlan>): Promise<number> {
    const { engine, threads } = this.#options;
    const name = "moments between two models";
    const opened = await engine.open({ model: await encodeGraph(crossGraph(crossed)), threads, name });
    return opened.session;
  }

  async #runCross(
    session: number,
    rows: readonly string[],
    sums: readonly InputSums[],
  ): Promise<Record<string, TensorValue>> {
    const { engine, signal } = this.#options;
    const names = rows.flatMap((name) => [outputOf.others(name), outputOf.rows(name)]);
    const found = await engine.run(session, {
      feeds: Object.fromEntries(names.map((name) => [name, { kept: name }])),
      fetch: sums.flatMap(({ crossOutputs }) => crossOutputs),
      ...(signal === undefined ? {} : { signal }),
    });
    await engine.drop(names);
    return found;
  }

  /** Runs a batch through a step and writes what later steps read of it. */
  async #run(
    { side, session }: OpenStep,
    place: StepPlace,
    number: number,
    {
      next,
      fetch = [],
      keep = {},
    }: {
      readonly next: States | null;
      readonly fetch?: readonly string[];
      readonly keep?: Readonly<Record<string, string>>;
    },
  ): Promise<Record<string, TensorValue>> {
    const { engine, signal } = this.#options;
    const shared = next === null ? [] : sharedBy(side, place);
    const wanted = [...fetch, ...(next === null ? [] : [STEP.next]), ...shared.map(({ name }) => name)];
    if (wanted.length === 0 && Object.keys(keep).length === 0) return {};
    const found = await engine.run(session, {
      feeds: await this.#feeds(side, place, number),
      fetch: wanted,
      keep,
      ...(signal === undefined ? {} : { signal }),
    });
    const write = async (states: States, name: string): Promise<void> =>
      states.write(number, found[name]!.data as Float32Array);
    if (next !== null) await write(next, STEP.next);
    for (const { name, states } of shared) await write(states, name);
    return found;
  }

  async #feeds(side: Side, place: StepPlace, number: number): Promise<Record<string, Feed>> {
    const batch = this.#batches[number]!;
    const { hidden, perLayerWidth } = this.#config;
    const [windows, tokens] = batch.dims;
    const feeds: Record<string, Feed> = {};
    const floats = async (name: string, states: States, dims: readonly number[]): Promise<void> => {
      feeds[name] = { type: "float32", dims, data: await states.read(number) };
    };
    if (place === "embedding" || (place !== "head" && perLayerWidth > 0)) {
      feeds[STEP.ids] = { type: "int64", dims: batch.dims, data: idsOf(batch) };
    }
    if (place !== "embedding") await floats(STEP.states, side.states!, [windows, tokens, hidden]);
    const source = typeof place === "string" ? null : sourceLayer(this.#config, place);
    if (source !== null) {
      const { key, value } = side.shared.get(source.index)!;
      const dims = [windows, source.kvHeads, tokens, source.headDim];
      await floats(sharedNames(source).key, key, dims);
      await floats(sharedNames(source).value, value, dims);
    }
    return feeds;
  }

  /** Room for what a side's step gives: that of its last step where nothing needs to be kept. */
  async #makeNext(side: Side, index: number): Promise<States> {
    const { resumable = false } = this.#options;
    const place = this.#place(index);
    if (typeof place !== "string" && isShared(this.#config, place)) {
      const [key, value] = await Promise.all(
        sharedFiles(side, place).map((name) => this.#room.make(name, sharedWidth(place), resumable)),
      );
      side.shared.set(place.index, { key: key!, value: value! });
    }
    if (side.states !== null && !resumable) return side.states;
    return this.#room.make(`${side.name}-${index}`, this.#config.hidden, resumable);
  }

  async #finish(side: Side, place: StepPlace, next: States | null): Promise<void> {
    if (next === null) return;
    for (const { states } of sharedBy(side, place)) await states.finish();
    await next.finish();
    if (side.states !== null && side.states !== next) this.#obsolete.push(side.states);
    side.states = next;
  }

  /** Opens a step of some sides, and closes them when it is done. */
  async #withSteps(
    place: StepPlace,
    probes: ((side: Side) => Probe) | null,
    sides: readonly Side[],
    use: (steps: readonly OpenStep[]) => Promise<void>,
  ): Promise<void> {
    const { engine, threads, checkpoint, signal } = this.#options;
    const steps: OpenStep[] = [];
    try {
      const name = typeof place === "string" ? place : `layer ${place.index}`;
      for (const side of sides) {
        const { model, folder } = await checkpointStep(
          checkpoint,
          place,
          probes && probes(side),
          side.replaced,
        );
        const { session } = await engine.open({
          model: await encodeGraph(model),
          folder,
          name,
          threads,
          prepack: this.#batches.length >= PREPACK_RUNS,
          ...(signal === undefined ? {} : { signal }),
        });
        steps.push({ side, session });
      }
      await use(steps);
    } finally {
      // An engine that was stopped has none open any more.
      for (const { session } of steps) await engine.close(session).catch(() => {});
    }
  }

  /** Does one batch's work and tells how far the step is. */
  async #timed(index: number, batch: Batch, work: () => Promise<unknown>): Promise<void> {
    const { signal, onProgress, order } = this.#options;
    signal?.throwIfAborted();
    const start = performance.now();
    await work();
    this.#milliseconds += performance.now() - start;
    this.#tokens += batch.tokens;
    const place = this.#place(index);
    const all = this.#batches.reduce((sum, { tokens }) => sum + tokens, 0);
    onProgress?.({
      index,
      steps: this.steps,
      layer: typeof place === "string" ? null : place.index,
      tokens: this.#tokens,
      total: order === "sequential" && place !== "head" ? 2 * all : all,
      seconds: this.#milliseconds / 1000,
    });
  }

  /** Looks for the states of the last of the steps that are done, and for what else the next ones read. */
  async #resume(done: number): Promise<void> {
    const last = Math.min(done - 1, this.#config.layers.length);
    for (let index = last; index >= 0 && this.#first === 0; index--) {
      if (await this.#findStates(index)) this.#first = index + 1;
    }
    if (done >= this.steps) this.#first = this.steps;
    for (const { name } of this.#sides) {
      for (let index = 0; index <= this.#config.layers.length; index++) {
        if (index !== this.#first - 1) await this.#room.discard(`${name}-${index}`);
      }
    }
  }

  /** Takes up all states behind a step; false where some are missing. */
  async #findStates(index: number): Promise<boolean> {
    const shared = this.#config.layers.filter(
      (layer) => layer.index < index && isShared(this.#config, layer),
    );
    for (const side of this.#sides) {
      const states = await this.#room.find(`${side.name}-${index}`, this.#config.hidden);
      side.states = states ?? null;
      for (const layer of shared) {
        const [key, value] = await Promise.all(
          sharedFiles(side, layer).map((name) => this.#room.find(name, sharedWidth(layer))),
        );
        if (key !== undefined && value !== undefined) side.shared.set(layer.index, { key, value });
      }
    }
    const whole = this.#sides.every((side) => side.states !== null && side.shared.size === shared.length);
    if (whole) return true;
    await this.#room.end("close");
    for (const side of this.#sides) {
      side.states = null;
      side.shared.clear();
    }
    return false;
  }
}

function sideOf(name: string, replaced: ReadonlyMap<string, string>): Side {
  return { name, replaced, states: null, shared: new Map() };
}

function sharedFiles({ name }: Side, { index }: LayerConfig): [key: string, value: string] {
  return [`${name}-keys-${index}`, `${name}-values-${index}`];
}

function sharedWidth({ kvHeads, headDim }: LayerConfig): number {
  return kvHeads * headDim;
}

/** What a layer gives to later ones besides the stream. */
function sharedBy(side: Side, place: StepPlace): { readonly name: string; readonly states: States }[] {
  const shared = typeof place === "string" ? undefined : side.shared.get(place.index);
  if (typeof place === "string" || shared === undefined) return [];
  const { key, value } = sharedNames(place);
  return [
    { name: key, states: shared.key },
    { name: value, states: shared.value },
  ];
}
