import type { GgufMetadata } from "../../formats/gguf/types.js";
import { decodable, decode } from "../blocks/decode/decode.js";
import { rowBytes } from "../blocks/table.js";
import type { BlockTypeName } from "../blocks/types.js";
import { diffMetadata, type MetadataDifference } from "./diff-metadata.js";
import type { Reporter } from "./progress.js";
import { type ModelSource, openSource } from "./source.js";
import { PieceReader, type StoredTensor, storedTensors, TILE_VALUES, withFiles } from "./stored-tensors.js";

/** Bytes that are compared at a time where nothing is decoded. */
const RAW_BYTES = 1024 * 1024;

/** How a tensor of one model stands to that of the other. */
export const TENSOR_STATES = [
  /** Same type, same bytes. */
  "identical",
  /** Other types or bytes, same values. */
  "equal",
  "different",
  /** At least one value of either is NaN or infinite: there is no error to tell. */
  "notFinite",
  /** Shapes differ, values are not compared. */
  "otherShape",
  /** Values of a type that holds no weights (integers, F64, F8 of a checkpoint); the bytes differ. */
  "notCompared",
  "onlyA",
  "onlyB",
] as const;

export type TensorState = (typeof TENSOR_STATES)[number];

export interface TensorSide {
  /** ggml type, or dtype of a checkpoint. */
  readonly type: string;
  /** ggml's order: fastest dimension first. */
  readonly ne: readonly number[];
  readonly bytes: number;
}

export interface TensorDifference {
  /** Name in GGUF; vision and audio of two checkpoints have their own. */
  readonly name: string;
  readonly state: TensorState;
  /** Null when the model lacks it. */
  readonly a: TensorSide | null;
  readonly b: TensorSide | null;
  /** sqrt(Σ(a − b)² / Σa²); null where nothing was compared, or where all of A is 0 and B is not. */
  readonly relativeError: number | null;
}

export interface DiffedModel {
  readonly path: string;
  readonly kind: "checkpoint" | "gguf";
  /** Tensors that are listed, and their bytes. */
  readonly tensors: number;
  readonly bytes: number;
  /** Tensors of vision and audio, which are left out when the other model is a GGUF. */
  readonly towersLeftOut: number;
}

/** What `inspect --diff --json` prints. */
export interface DiffReport {
  readonly kind: "diff";
  /** The reference. */
  readonly a: DiffedModel;
  readonly b: DiffedModel;
  /** A's in file order, then those that only B has. */
  readonly tensors: readonly TensorDifference[];
  readonly total: {
    /** Tensors whose values, or equal bytes, were compared. */
    readonly compared: number;
    readonly states: Readonly<Record<TensorState, number>>;
    /**
     * Over all values of the matrices that were compared and are finite; null as above. Vectors are left out:
     * nothing rounds them, and next to the 1e30 in `rope_freqs.weight` every error is 0.
     */
    readonly relativeError: number | null;
  };
  /** A's keys in file order, then those that only B has; null unless both are GGUF. */
  readonly metadata: readonly MetadataDifference[] | null;
}

interface Pair {
  readonly a: StoredTensor;
  readonly b: StoredTensor;
}

/** Sums of squares over the values of a tensor. */
interface Sums {
  readonly difference: number;
  readonly energy: number;
}

/** A length of 1 in the slowest dimensions is written by some and left out by others. */
function sameShape(a: readonly number[], b: readonly number[]): boolean {
  const length = Math.max(a.length, b.length);
  for (let index = 0; index < length; index++) if ((a[index] ?? 1) !== (b[index] ?? 1)) return false;
  return true;
}

function isMatrix({ ne }: StoredTensor): boolean {
  return ne.filter((size) => size > 1).length > 1;
}

function isDecodable(type: string): type is BlockTypeName {
  return (decodable as readonly string[]).includes(type);
}

function isFinitePair({ difference, energy }: Sums): boolean {
  return Number.isFinite(difference) && Number.isFinite(energy);
}

function relativeError({ difference, energy }: Sums): number | null {
  if (difference === 0) return 0;
  return energy > 0 ? Math.sqrt(difference / energy) : null;
}

function sumSquares(values: Float32Array): number {
  let sum = 0;
  for (let index = 0; index < values.length; index++) sum += values[index]! * values[index]!;
  return sum;
}

function sumSquaredDifferences(a: Float32Array, b: Float32Array): number {
  let sum = 0;
  for (let index = 0; index < a.length; index++) {
    const difference = a[index]! - b[index]!;
    sum += difference * difference;
  }
  return sum;
}

/** Reads pairs of tensors side by side, in a few MiB whatever their size. */
class Comparer {
  readonly #a: PieceReader;
  readonly #b: PieceReader;
  readonly #valuesA = new Float32Array(TILE_VALUES);
  readonly #valuesB = new Float32Array(TILE_VALUES);
  readonly #onBytes: (bytes: number) => void;

  constructor(a: PieceReader, b: PieceReader, onBytes: (bytes: number) => void) {
    this.#a = a;
    this.#b = b;
    this.#onBytes = onBytes;
  }

  async sameBytes({ a, b }: Pair): Promise<boolean> {
    const others = this.#b.pieces(b, RAW_BYTES);
    try {
      for await (const piece of this.#a.pieces(a, RAW_BYTES)) {
        const other = (await others.next()).value as Uint8Array;
        if (Buffer.compare(piece, other) !== 0) return false;
        this.#onBytes(piece.length + other.length);
      }
      return true;
    } finally {
      await others.return(undefined);
    }
  }

  async energy(a: StoredTensor, type: BlockTypeName): Promise<number> {
    let energy = 0;
    let left = a.values;
    for await (const piece of this.#a.pieces(a, rowBytes(type, TILE_VALUES))) {
      const values = this.#valuesA.subarray(0, Math.min(TILE_VALUES, left));
      decode(type, piece, values);
      energy += sumSquares(values);
      left -= values.length;
      this.#onBytes(piece.length);
    }
    return energy;
  }

  async sums({ a, b }: Pair, typeA: BlockTypeName, typeB: BlockTypeName): Promise<Sums> {
    let difference = 0;
    let energy = 0;
    let left = a.values;
    const others = this.#b.pieces(b, rowBytes(typeB, TILE_VALUES));
    try {
      for await (const piece of this.#a.pieces(a, rowBytes(typeA, TILE_VALUES))) {
        const other = (await others.next()).value as Uint8Array;
        const count = Math.min(TILE_VALUES, left);
        const valuesA = this.#valuesA.subarray(0, count);
        const valuesB = this.#valuesB.subarray(0, count);
        decode(typeA, piece, valuesA);
        decode(typeB, other, valuesB);
        difference += sumSquaredDifferences(valuesA, valuesB);
        energy += sumSquares(valuesA);
        left -= count;
        this.#onBytes(piece.length + other.length);
      }
    } finally {
      await others.return(undefined);
    }
    return { difference, energy };
  }
}

/** Counts what was read against all that may have to be read. */
class Meter {
  readonly #reporter: Reporter;
  readonly #total: number;
  #done = 0;

  constructor(pairs: readonly Pair[], reporter: Reporter) {
    this.#reporter = reporter;
    this.#total = pairs.reduce((sum, pair) => sum + Meter.bytes(pair), 0);
  }

  /** A matrix that turns out identical may be read once more, for its share in the total. */
  static bytes({ a, b }: Pair): number {
    return a.bytes + b.bytes + (a.type === b.type && isMatrix(a) ? a.bytes : 0);
  }

  readonly add = (bytes: number): void => this.set(this.#done + bytes);

  get done(): number {
    return this.#done;
  }

  set(done: number): void {
    this.#done = done;
    this.#reporter.progress({ done, total: this.#total, unit: "bytes" });
  }
}

interface Compared {
  readonly state: TensorState;
  readonly relativeError: number | null;
}

/** Compares pairs one after another and keeps the total. */
class Run {
  readonly #comparer: Comparer;
  readonly #meter: Meter;
  /** Identical matrices. */
  readonly #identical: StoredTensor[] = [];
  #difference = 0;
  #energy = 0;

  constructor(comparer: Comparer, meter: Meter) {
    this.#comparer = comparer;
    this.#meter = meter;
  }

  async compare(pair: Pair): Promise<Compared> {
    const { a, b } = pair;
    const start = this.#meter.done;
    if (a.type === b.type && a.bytes === b.bytes && (await this.#comparer.sameBytes(pair))) {
      if (isMatrix(a)) this.#identical.push(a);
      return { state: "identical", relativeError: 0 };
    }
    const end = start + Meter.bytes(pair);
    const { type: typeA } = a;
    const { type: typeB } = b;
    if (!isDecodable(typeA) || !isDecodable(typeB)) {
      this.#meter.set(end);
      return { state: "notCompared", relativeError: null };
    }
    this.#meter.set(end - a.bytes - b.bytes);
    const sums = await this.#comparer.sums(pair, typeA, typeB);
    if (!isFinitePair(sums)) return { state: "notFinite", relativeError: null };
    if (isMatrix(a)) {
      this.#difference += sums.difference;
      this.#energy += sums.energy;
    }
    return { state: sums.difference === 0 ? "equal" : "different", relativeError: relativeError(sums) };
  }

  /** Identical matrices are decoded only where their energy makes a difference. */
  async total(): Promise<number | null> {
    if (this.#difference === 0) return 0;
    let energy = this.#energy;
    for (const tensor of this.#identical) {
      if (!isDecodable(tensor.type)) continue;
      const own = await this.#comparer.energy(tensor, tensor.type);
      if (Number.isFinite(own)) energy += own;
    }
    return relativeError({ difference: this.#difference, energy });
  }
}

function side({ type, ne, bytes }: StoredTensor): TensorSide {
  return { type, ne, bytes };
}

/** Tensors of a model that can have a counterpart in the other one. */
function comparable(source: ModelSource, other: ModelSource): { tensors: StoredTensor[]; leftOut: number } {
  const tensors = storedTensors(source, "gguf");
  if (source.kind === "gguf" || other.kind === "checkpoint") return { tensors, leftOut: 0 };
  const towers = new Set(source.bound.towers.map(({ name }) => name));
  return { tensors: tensors.filter(({ name }) => !towers.has(name)), leftOut: towers.size };
}

function describeModel(
  path: string,
  source: ModelSource,
  { tensors, leftOut }: { tensors: readonly StoredTensor[]; leftOut: number },
): DiffedModel {
  return {
    path,
    kind: source.kind,
    tensors: tensors.length,
    bytes: tensors.reduce((sum, { bytes }) => sum + bytes, 0),
    towersLeftOut: leftOut,
  };
}

function metadataOf(source: ModelSource): GgufMetadata | null {
  return source.kind === "gguf" ? source.model.metadata : null;
}

function countStates(tensors: readonly TensorDifference[]): Record<TensorState, number> {
  const counts = Object.fromEntries(TENSOR_STATES.map((state) => [state, 0])) as Record<TensorState, number>;
  for (const { state } of tensors) counts[state] += 1;
  return counts;
}

/**
 * Compares two models tensor by tensor, by their names in GGUF: types, bytes, and how far the values of B
 * are from those of A. Either may be a GGUF file (any part of a split one) or the folder of a checkpoint.
 *
 * @param path the reference, A
 * @param other B
 * @throws LapidaryError of the rooms that read; the signal's reason after an abort
 */
export async function diff(
  path: string,
  other: string,
  reporter: Reporter,
  signal: AbortSignal,
): Promise<DiffReport> {
  const sourceA = await openSource(path);
  const sourceB = await openSource(other);
  const a = comparable(sourceA, sourceB);
  const b = comparable(sourceB, sourceA);
  const ofB = new Map(b.tensors.map((tensor) => [tensor.name, tensor]));
  const pairs = a.tensors.flatMap((tensor) => {
    const match = ofB.get(tensor.name);
    return match !== undefined && sameShape(tensor.ne, match.ne) ? [{ a: tensor, b: match }] : [];
  });

  reporter.start(`compare ${other} with ${path}`);
  const { found, totalError } = await withFiles(
    pairs.flatMap((pair) => [pair.a, pair.b]),
    async (files) => {
      const meter = new Meter(pairs, reporter);
      const reader = (): PieceReader => new PieceReader(files, signal);
      const run = new Run(new Comparer(reader(), reader(), meter.add), meter);
      const found = new Map<string, Compared>();
      for (const pair of pairs) found.set(pair.a.name, await run.compare(pair));
      return { found, totalError: await run.total() };
    },
  );
  const tensors: TensorDifference[] = a.tensors.map((tensor) => {
    const match = ofB.get(tensor.name);
    const { name } = tensor;
    if (match === undefined) {
      return { name, state: "onlyA", a: side(tensor), b: null, relativeError: null };
    }
    const compared = found.get(name) ?? { state: "otherShape", relativeError: null };
    return { name, ...compared, a: side(tensor), b: side(match) };
  });
  const ofA = new Set(a.tensors.map(({ name }) => name));
  for (const tensor of b.tensors) {
    if (ofA.has(tensor.name)) continue;
    tensors.push({ name: tensor.name, state: "onlyB", a: null, b: side(tensor), relativeError: null });
  }

  const states = countStates(tensors);
  const compared = states.identical + states.equal + states.different + states.notFinite;
  reporter.finish(`${compared} ${compared === 1 ? "tensor" : "tensors"} compared`);
  const metadata = [metadataOf(sourceA), metadataOf(sourceB)] as const;
  return {
    kind: "diff",
    a: describeModel(path, sourceA, a),
    b: describeModel(other, sourceB, b),
    tensors,
    total: { compared, states, relativeError: totalError },
    metadata: metadata[0] === null || metadata[1] === null ? null : diffMetadata(metadata[0], metadata[1]),
  };
}
