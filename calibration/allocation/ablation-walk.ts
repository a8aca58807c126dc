import { rm } from "node:fs/promises";
import { join } from "node:path";
import type { Feed, TensorValue } from "../../src/engines/onnx/types.js";
import { COMPARISON } from "../../src/gemma4/graph/comparison.js";
import {
  checkpointComparison,
  checkpointStep,
  encodeGraph,
  type StepGraph,
  type StepPlace,
} from "../../src/gemma4/graph/files.js";
import { isShared, sharedNames, sourceLayer, STEP } from "../../src/gemma4/graph/steps.js";
import type { Gemma4Config, LayerConfig, Role } from "../../src/gemma4/types.js";
import { headWeight, listWeights } from "../../src/gemma4/weights.js";
import { type Batch, idsOf, makeBatches } from "../statistics/batches.js";
import { StateRoom, type States } from "../statistics/states.js";
import type { Ablation, AblateOptions, Variant } from "./ablate.js";

/** Values of the size of the logits at a time: logits before and behind the soft cap, two predictions and what lies between. */
const LOGIT_COPIES = 6;

/** Weights that every layer reads a part of. */
const EVERY_LAYER: ReadonlySet<Role> = new Set(["ple_table", "ple_projection", "ple_norm"]);

/** A model on its way: the unrounded one, or a variant that has begun. */
interface Side {
  readonly name: string;
  readonly variant: Variant | null;
  states: States;
  /** By layer, keys and values for later ones that differ from those of the unrounded model. */
  readonly shared: Map<number, readonly [States, States]>;
}

/** Tokens of a batch, but the last of each window, that go through the head at once. */
interface Chunk {
  readonly batch: number;
  readonly places: readonly number[];
}

type Step = Exclude<StepPlace, "head">;

/** The way of a model and its variants: see `ablate`. */
export class AblationWalk {
  readonly #options: AblateOptions;
  readonly #config: Gemma4Config;
  readonly #batches: readonly Batch[];
  readonly #room: StateRoom;
  readonly #rooms: StateRoom[] = [];
  readonly #places: ReadonlyMap<string, "embedding" | "head" | "layers" | number>;
  /** The unrounded model, once it has begun. */
  #base: Side | null = null;
  readonly #sides = new Map<Variant, Side>();
  readonly #files = new Set<string>();
  #done = 0;

  /** @throws StatisticsError for windows and ids that are none; RangeError for a weight that is not there */
  constructor(options: AblateOptions) {
    this.#options = options;
    this.#config = options.checkpoint.config;
    this.#batches = makeBatches(options.windows, this.#config.vocabulary);
    this.#room = this.#makeRoom(
      options.stateMemory,
      this.#batches.map(({ tokens }) => tokens),
    );
    this.#places = placesOf(this.#config);
    for (const { weights, name } of options.variants) {
      const stranger = weights.find((weight) => !this.#places.has(weight));
      if (stranger !== undefined) throw new RangeError(`${name}: the model has no ${stranger}`);
    }
  }

  async end(): Promise<void> {
    for (const room of this.#rooms) await room.end("remove");
    for (const path of this.#files) await rm(path, { force: true });
  }

  #makeRoom(memory: number, batches: readonly number[]): StateRoom {
    const room = new StateRoom({ folder: this.#options.scratch, memory, batches });
    this.#rooms.push(room);
    return room;
  }

  /** Weights of a variant that are read at a place. */
  #readAt({ weights }: Variant, place: StepPlace): string[] {
    return weights.filter((weight) => {
      const own = this.#places.get(weight);
      if (typeof place === "string") return own === place;
      return own === "layers" || own === place.index;
    });
  }

  /** Runs the embeddings and all layers. */
  async layers(): Promise<void> {
    for (const place of ["embedding", ...this.#config.layers] as const) {
      const base = await this.#baseNext(place);
      const before = this.#base;
      for (const variant of this.#options.variants) {
        const own = this.#readAt(variant, place);
        const side = this.#sides.get(variant);
        if (side === undefined && own.length === 0) continue;
        await this.#variantNext(place, { variant, side, own, session: base.session });
      }
      await this.#options.engine.close(base.session);
      if (before !== null) await this.#room.remove(before.states);
      this.#base = base.side;
    }
  }

  /** Runs the unrounded model through a step, whose graph stays open. */
  async #baseNext(place: Step): Promise<{ readonly session: number; readonly side: Side }> {
    const session = await this.#open(place, await this.#step(place, new Map()));
    const side = await this.#next(place, session, this.#base, { name: "unrounded", variant: null });
    return { session, side };
  }

  async #variantNext(
    place: Step,
    {
      variant,
      side,
      own,
      session,
    }: {
      readonly variant: Variant;
      readonly side: Side | undefined;
      readonly own: readonly string[];
      readonly session: number;
    },
  ): Promise<void> {
    const from = side ?? this.#base;
    const name = `variant-${this.#options.variants.indexOf(variant)}`;
    const next = await this.#withOwn(place, { variant, own, session }, (used) =>
      this.#next(place, used, from, { name, variant }),
    );
    if (side !== undefined) await this.#room.remove(side.states);
    this.#sides.set(variant, next);
  }

  /** Calls with a session in which weights of the variant are replaced, or with the one given where there are none. */
  async #withOwn<T>(
    place: StepPlace,
    given: { readonly variant: Variant; readonly own: readonly string[]; readonly session: number },
    use: (session: number) => Promise<T>,
  ): Promise<T> {
    const { variant, own, session } = given;
    if (own.length === 0) return use(session);
    const replaced = new Map<string, string>();
    for (const [index, weight] of own.entries()) {
      const path = join(this.#options.scratch, `weight-${index}.f32`);
      this.#files.add(path);
      await this.#options.write(path, weight, variant);
      replaced.set(weight, path);
    }
    const graph =
      place === "head"
        ? await checkpointComparison(this.#options.checkpoint, "divergence", replaced)
        : await this.#step(place, replaced);
    const opened = await this.#open(place, graph);
    const result = await use(opened);
    await this.#options.engine.close(opened);
    for (const path of replaced.values()) await rm(path, { force: true });
    return result;
  }

  #step(place: StepPlace, replaced: ReadonlyMap<string, string>): Promise<StepGraph> {
    return checkpointStep(this.#options.checkpoint, place, null, replaced);
  }

  /** Runs all batches of a side through a step. */
  async #next(
    place: Step,
    session: number,
    from: Side | null,
    { name, variant }: Pick<Side, "name" | "variant">,
  ): Promise<Side> {
    const { hidden } = this.#config;
    const step = typeof place === "string" ? 0 : place.index + 1;
    // The first states of a side are made from those of the unrounded model, which all variants begin with.
    const inherited = from?.variant === variant ? from.shared : new Map<number, readonly [States, States]>();
    const side: Side = {
      name,
      variant,
      states: await this.#room.make(`${name}-${step}`, hidden, false),
      shared: inherited,
    };
    const given = await this.#makeShared(place, name);
    const fetch = [STEP.next, ...given.map(([value]) => value)];
    for (const number of this.#batches.keys()) {
      const feeds = await this.#feeds(place, from, number);
      const found = await this.#run(session, feeds, fetch);
      await side.states.write(number, floatsOf(found, STEP.next));
      for (const [value, states] of given) await states.write(number, floatsOf(found, value));
    }
    if (typeof place !== "string" && given.length > 0)
      side.shared.set(place.index, [given[0]![1], given[1]![1]]);
    return side;
  }

  /** Room for the keys and values of a layer that later ones take, by their names. */
  async #makeShared(place: Step, name: string): Promise<(readonly [string, States])[]> {
    if (typeof place === "string" || !isShared(this.#config, place)) return [];
    const width = place.kvHeads * place.headDim;
    const { key, value } = sharedNames(place);
    return [
      [key, await this.#room.make(`${name}-keys-${place.index}`, width, false)],
      [value, await this.#room.make(`${name}-values-${place.index}`, width, false)],
    ];
  }

  /** What a step reads of a batch. */
  async #feeds(place: Step, from: Side | null, number: number): Promise<Record<string, Feed>> {
    const batch = this.#batches[number]!;
    const [windows, tokens] = batch.dims;
    const { hidden, perLayerWidth } = this.#config;
    const feeds: Record<string, Feed> = {};
    if (place === "embedding" || perLayerWidth > 0) {
      feeds[STEP.ids] = { type: "int64", dims: batch.dims, data: idsOf(batch) };
    }
    if (place === "embedding") return feeds;
    feeds[STEP.states] = float([windows, tokens, hidden], await from!.states.read(number));
    const source = sourceLayer(this.#config, place);
    if (source === null) return feeds;
    const [keys, values] = this.#sharedOf(from!, source);
    const { key, value } = sharedNames(source);
    const dims = [windows, source.kvHeads, tokens, source.headDim];
    feeds[key] = float(dims, await keys.read(number));
    feeds[value] = float(dims, await values.read(number));
    return feeds;
  }

  /** A variant that began behind the source has the keys and values of the unrounded model. */
  #sharedOf(side: Side, { index }: LayerConfig): readonly [States, States] {
    return side.shared.get(index) ?? this.#base!.shared.get(index)!;
  }

  async #run(
    session: number,
    feeds: Readonly<Record<string, Feed>>,
    fetch: readonly string[],
  ): Promise<Record<string, TensorValue>> {
    const { engine, signal, onProgress } = this.#options;
    signal?.throwIfAborted();
    const found = await engine.run(session, { feeds, fetch, ...(signal === undefined ? {} : { signal }) });
    this.#done++;
    onProgress?.(this.#done, this.#total());
    return found;
  }

  /** Runs of all steps: the head's are counted by batches too. */
  #total(): number {
    const places: StepPlace[] = ["embedding", ...this.#config.layers, "head"];
    const steps = this.#options.variants.map((variant) => {
      const first = places.findIndex((place) => this.#readAt(variant, place).length > 0);
      return first === -1 ? 0 : places.length - first;
    });
    const runs = steps.reduce((sum, count) => sum + count, places.length);
    return runs * this.#batches.length;
  }

  async #open(place: StepPlace, { model, folder }: StepGraph): Promise<number> {
    const { engine, threads, signal } = this.#options;
    const { session } = await engine.open({
      model: await encodeGraph(model),
      folder,
      name: typeof place === "string" ? place : `layer ${place.index}`,
      threads,
      prepack: false,
      ...(signal === undefined ? {} : { signal }),
    });
    return session;
  }

  /** Makes predictions of all states and compares those of the variants with those of the unrounded model. */
  async compare(): Promise<Ablation[]> {
    const { variants, checkpoint, engine } = this.#options;
    const chunks = this.#chunks();
    const predictions = await this.#predictions(chunks);
    const session = await this.#open("head", await checkpointComparison(checkpoint, "divergence", new Map()));
    const results: Ablation[] = [];
    for (const variant of variants) {
      const own = this.#readAt(variant, "head");
      const side = this.#sides.get(variant) ?? this.#base!;
      const result = await this.#withOwn("head", { variant, own, session }, (used) =>
        this.#compareSide(side, used, chunks, predictions),
      );
      results.push({ variant, ...result });
    }
    await engine.close(session);
    return results;
  }

  #chunks(): Chunk[] {
    const { logitMemory } = this.#options;
    const most = Math.max(1, Math.floor(logitMemory / (this.#config.vocabulary * LOGIT_COPIES * 4)));
    return this.#batches.flatMap(({ dims: [windows, tokens] }, batch) => {
      const all = Array.from({ length: windows * tokens }, (_, place) => place);
      const scored = all.filter((place) => (place + 1) % tokens !== 0);
      return Array.from({ length: Math.ceil(scored.length / most) }, (_, index) => ({
        batch,
        places: scored.slice(index * most, (index + 1) * most),
      }));
    });
  }

  /** Those of the unrounded model, chunk by chunk. */
  async #predictions(chunks: readonly Chunk[]): Promise<States> {
    const { checkpoint, stateMemory, engine } = this.#options;
    const room = this.#makeRoom(
      stateMemory,
      chunks.map(({ places }) => places.length),
    );
    const predictions = await room.make("predictions", this.#config.vocabulary, false);
    const session = await this.#open(
      "head",
      await checkpointComparison(checkpoint, "predictions", new Map()),
    );
    for (const [index, chunk] of chunks.entries()) {
      const feeds = { [STEP.states]: await this.#statesOf(this.#base!, chunk) };
      const found = await engine.run(session, { feeds, fetch: [COMPARISON.predictions] });
      await predictions.write(index, floatsOf(found, COMPARISON.predictions));
    }
    await engine.close(session);
    return predictions;
  }

  async #statesOf({ states }: Side, { batch, places }: Chunk): Promise<Feed> {
    const { hidden } = this.#config;
    const all = await states.read(batch);
    const values = new Float32Array(places.length * hidden);
    for (const [row, place] of places.entries()) {
      values.set(all.subarray(place * hidden, (place + 1) * hidden), row * hidden);
    }
    return float([1, places.length, hidden], values);
  }

  async #compareSide(
    side: Side,
    session: number,
    chunks: readonly Chunk[],
    predictions: States,
  ): Promise<Pick<Ablation, "kld" | "sameTop">> {
    const { divergence, same } = COMPARISON;
    let [kld, equal, tokens] = [0, 0, 0];
    for (const [index, chunk] of chunks.entries()) {
      const dims = [1, chunk.places.length, this.#config.vocabulary];
      const feeds = {
        [STEP.states]: await this.#statesOf(side, chunk),
        [COMPARISON.predictions]: float(dims, await predictions.read(index)),
      };
      const found = await this.#run(session, feeds, [divergence, same]);
      kld += sum(floatsOf(found, divergence));
      equal += sum(floatsOf(found, same));
      tokens += chunk.places.length;
    }
    return { kld: kld / tokens, sameTop: equal / tokens };
  }
}

/** Where each weight of a model is read. */
function placesOf(config: Gemma4Config): Map<string, "embedding" | "head" | "layers" | number> {
  const all = [...listWeights(config), headWeight(config)];
  return new Map(
    all.map(({ name, role, layer }): [string, "embedding" | "head" | "layers" | number] => {
      if (role === "head" || role === "final_norm") return [name, "head"];
      if (EVERY_LAYER.has(role)) return [name, "layers"];
      return [name, layer ?? "embedding"];
    }),
  );
}

function float(dims: readonly number[], data: Float32Array): Feed {
  return { type: "float32", dims, data };
}

function floatsOf(found: Record<string, TensorValue>, name: string): Float32Array {
  const value = found[name];
  if (value?.type !== "float32") throw new RangeError(`the run gave no floats under ${name}`);
  return value.data;
}

function sum(values: Float32Array): number {
  return values.reduce((total, value) => total + value, 0);
}
