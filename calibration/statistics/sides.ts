import type { Feed, TensorValue } from "../../src/engines/onnx/types.js";
import type { StepPlace } from "../../src/gemma4/graph/files.js";
import { isShared, sharedNames, sourceLayer, STEP } from "../../src/gemma4/graph/steps.js";
import type { Gemma4Config, LayerConfig } from "../../src/gemma4/types.js";
import { type Batch, idsOf } from "./batches.js";
import type { StateRoom, States } from "./states.js";

/** Keys and values that later layers take. */
interface Shared {
  readonly key: States;
  readonly value: States;
}

export interface SideOptions {
  /** Start of the names of its states. */
  readonly name: string;
  readonly config: Gemma4Config;
  readonly room: StateRoom;
  /** By names of weights, files of replaced ones. */
  readonly replaced: ReadonlyMap<string, string>;
  /** Whether what a step gives has to be in files, beside what it was made from. */
  readonly kept: boolean;
}

/** A model that is walked through, and what its last step has given: the checkpoint's own, or one with replaced weights. */
export class Side {
  readonly replaced: ReadonlyMap<string, string>;
  readonly #options: SideOptions;
  #states: States | null = null;
  /** By layer. */
  readonly #shared = new Map<number, Shared>();
  /** What the step under way gives, while it does. */
  #next: States | null = null;
  /** What steps were made from that are done. */
  #obsolete: States[] = [];

  constructor(options: SideOptions) {
    this.#options = options;
    this.replaced = options.replaced;
  }

  /** What a batch feeds to a step. */
  async feeds(place: StepPlace, number: number, batch: Batch): Promise<Record<string, Feed>> {
    const { hidden, perLayerWidth } = this.#options.config;
    const [windows, tokens] = batch.dims;
    const feeds: Record<string, Feed> = {};
    if (place === "embedding" || (place !== "head" && perLayerWidth > 0)) {
      feeds[STEP.ids] = { type: "int64", dims: batch.dims, data: idsOf(batch) };
    }
    const floats = async (name: string, states: States, dims: readonly number[]): Promise<void> => {
      feeds[name] = { type: "float32", dims, data: await states.read(number) };
    };
    if (place !== "embedding") await floats(STEP.states, this.#states!, [windows, tokens, hidden]);
    const source = typeof place === "string" ? null : sourceLayer(this.#options.config, place);
    if (source === null) return feeds;
    const { key, value } = this.#shared.get(source.index)!;
    const dims = [windows, source.kvHeads, tokens, source.headDim];
    await floats(sharedNames(source).key, key, dims);
    await floats(sharedNames(source).value, value, dims);
    return feeds;
  }

  /** Makes room for what a step gives: where nothing has to be kept, that takes the place of what it is made from. */
  async begin(index: number, place: StepPlace): Promise<void> {
    const { name, config, room, kept } = this.#options;
    const shared = this.#sharing(place);
    if (shared !== null) {
      const [key, value] = await Promise.all(
        sharedFiles(name, shared).map((file) => room.make(file, sharedWidth(shared), kept)),
      );
      this.#shared.set(shared.index, { key: key!, value: value! });
    }
    this.#next =
      this.#states !== null && !kept
        ? this.#states
        : await room.make(`${name}-${index}`, config.hidden, kept);
  }

  /** Outputs of a step that `write` takes. */
  outputs(place: StepPlace): string[] {
    const shared = this.#sharing(place);
    return [STEP.next, ...(shared === null ? [] : Object.values(sharedNames(shared)))];
  }

  /** Takes what a step gives of a batch. */
  async write(place: StepPlace, number: number, found: Readonly<Record<string, TensorValue>>): Promise<void> {
    const put = async (states: States, name: string): Promise<void> =>
      states.write(number, found[name]!.data as Float32Array);
    await put(this.#next!, STEP.next);
    const shared = this.#sharing(place);
    if (shared === null) return;
    const { key, value } = this.#shared.get(shared.index)!;
    await put(key, sharedNames(shared).key);
    await put(value, sharedNames(shared).value);
  }

  /** All batches are written. */
  async finish(place: StepPlace): Promise<void> {
    const shared = this.#sharing(place);
    const { key, value } = (shared && this.#shared.get(shared.index)) ?? {};
    for (const states of [key, value, this.#next]) await states?.finish();
    if (this.#states !== null && this.#states !== this.#next) this.#obsolete.push(this.#states);
    this.#states = this.#next;
    this.#next = null;
  }

  /** Removes what nobody needs any more. */
  async clean(): Promise<void> {
    for (const states of this.#obsolete.splice(0)) await this.#options.room.remove(states);
  }

  /** Takes up what an earlier walk has left behind a step; false where a part of it is missing. */
  async find(index: number): Promise<boolean> {
    const { name, config, room } = this.#options;
    const earlier = config.layers.filter((layer) => layer.index < index && isShared(config, layer));
    this.#states = (await room.find(`${name}-${index}`, config.hidden)) ?? null;
    for (const layer of earlier) {
      const [key, value] = await Promise.all(
        sharedFiles(name, layer).map((file) => room.find(file, sharedWidth(layer))),
      );
      if (key !== undefined && value !== undefined) this.#shared.set(layer.index, { key, value });
    }
    return this.#states !== null && this.#shared.size === earlier.length;
  }

  /** Lets go of what `find` has taken up. */
  forget(): void {
    this.#states = null;
    this.#shared.clear();
  }

  /** Removes what earlier walks have left behind other steps. */
  async discardOthers(index: number): Promise<void> {
    const { name, config, room } = this.#options;
    for (let other = 0; other <= config.layers.length; other++) {
      if (other !== index) await room.discard(`${name}-${other}`);
    }
  }

  /** The layer, where later ones take its keys and values. */
  #sharing(place: StepPlace): LayerConfig | null {
    return typeof place !== "string" && isShared(this.#options.config, place) ? place : null;
  }
}

function sharedFiles(name: string, { index }: LayerConfig): [key: string, value: string] {
  return [`${name}-keys-${index}`, `${name}-values-${index}`];
}

function sharedWidth({ kvHeads, headDim }: LayerConfig): number {
  return kvHeads * headDim;
}
