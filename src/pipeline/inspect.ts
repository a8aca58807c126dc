import type { GgufMetadata, GgufValue } from "../../formats/gguf/types.js";
import { type InspectedOnnx, inspectOnnx } from "./inspect-onnx.js";
import { findOnnx } from "./onnx-source.js";
import type { CheckpointSource, GgufSource } from "./source.js";
import { openSource } from "./source.js";

/** Elements of a list that are shown; tokenizers have hundreds of thousands. */
const SHOWN_ELEMENTS = 8;

export interface InspectedTensor {
  readonly name: string;
  /** dtype of a checkpoint's tensor, ggml type of a GGUF's. */
  readonly type: string;
  /** Checkpoint: outermost dimension first. GGUF: ggml's order, fastest first. */
  readonly shape: readonly number[];
  readonly bytes: number;
  /** Base name of the file that holds it. */
  readonly file: string;
  /** Byte offset in that file. */
  readonly offset: number;
}

export interface TypeTotal {
  readonly type: string;
  readonly tensors: number;
  readonly values: number;
  readonly bytes: number;
}

/** A metadata value; of a list its length and first elements. */
export type InspectedValue =
  | { readonly type: string; readonly value: string | number | boolean }
  | {
      readonly type: string;
      readonly length: number;
      readonly first: readonly (string | number | boolean)[];
    };

interface InspectedTensors {
  readonly path: string;
  readonly files: readonly { readonly file: string; readonly bytes: number }[];
  /** Values of all tensors listed. */
  readonly values: number;
  /** Bytes of all tensors listed, without headers and padding. */
  readonly bytes: number;
  readonly bitsPerWeight: number;
  /** Most bytes first. */
  readonly types: readonly TypeTotal[];
  readonly tensors: readonly InspectedTensor[];
}

export interface InspectedCheckpoint extends InspectedTensors {
  readonly kind: "checkpoint";
  readonly member: string;
  readonly layers: { readonly sliding: number; readonly full: number; readonly sharingKv: number };
  readonly hidden: number;
  readonly vocabulary: number;
  readonly contextLength: number;
  readonly slidingWindow: number;
  readonly perLayerWidth: number;
  readonly experts: { readonly count: number; readonly used: number } | null;
  /** Tensors of the vision and audio part. */
  readonly towers: { readonly tensors: number; readonly bytes: number };
  /** Values of the text model that nothing reads: keys and values of layers that share those of others. */
  readonly unusedKvValues: number;
}

export interface InspectedGguf extends InspectedTensors {
  readonly kind: "gguf";
  readonly version: number;
  readonly alignment: number;
  readonly metadata: Readonly<Record<string, InspectedValue>>;
}

/** What `inspect --json` prints. */
export type Inspected = InspectedCheckpoint | InspectedGguf | InspectedOnnx;

function product(shape: readonly number[]): number {
  return shape.reduce((total, size) => total * size, 1);
}

function totals(
  tensors: readonly InspectedTensor[],
): Pick<InspectedTensors, "values" | "bytes" | "bitsPerWeight" | "types"> {
  const types = new Map<string, { tensors: number; values: number; bytes: number }>();
  let values = 0;
  let bytes = 0;
  for (const tensor of tensors) {
    const count = product(tensor.shape);
    values += count;
    bytes += tensor.bytes;
    const total = types.get(tensor.type) ?? { tensors: 0, values: 0, bytes: 0 };
    total.tensors += 1;
    total.values += count;
    total.bytes += tensor.bytes;
    types.set(tensor.type, total);
  }
  return {
    values,
    bytes,
    bitsPerWeight: values === 0 ? 0 : (bytes * 8) / values,
    types: [...types].map(([type, total]) => ({ type, ...total })).toSorted((a, b) => b.bytes - a.bytes),
  };
}

function plain(value: string | number | bigint | boolean): string | number | boolean {
  return typeof value === "bigint" ? value.toString() : value;
}

function inspectValue(value: GgufValue): InspectedValue {
  if (value.type !== "array") return { type: value.type, value: plain(value.value) };
  const { length } = value.value;
  const first: (string | number | boolean)[] = [];
  for (let index = 0; index < Math.min(length, SHOWN_ELEMENTS); index++) {
    const element = value.of === "string" ? value.value.at(index) : value.value[index];
    if (element !== undefined) first.push(plain(element));
  }
  return { type: `${value.of}[]`, length, first };
}

function inspectMetadata(metadata: GgufMetadata): Readonly<Record<string, InspectedValue>> {
  return Object.fromEntries([...metadata].map(([key, value]) => [key, inspectValue(value)]));
}

function baseName(path: string): string {
  return path.slice(Math.max(path.lastIndexOf("/"), path.lastIndexOf("\\")) + 1);
}

function inspectCheckpoint(
  path: string,
  { checkpoint, config, bound }: CheckpointSource,
): InspectedCheckpoint {
  const tensors = [...checkpoint.tensors.values()].map(
    ({ name, dtype, shape, byteLength, shard, offset }) => ({
      name,
      type: dtype,
      shape,
      bytes: byteLength,
      file: checkpoint.shards[shard]?.file ?? "",
      offset,
    }),
  );
  const count = (kind: "sliding" | "full"): number =>
    config.layers.filter((layer) => layer.kind === kind).length;
  return {
    kind: "checkpoint",
    path,
    files: checkpoint.shards.map(({ file, size }) => ({ file, bytes: size })),
    ...totals(tensors),
    member: config.member,
    layers: {
      sliding: count("sliding"),
      full: count("full"),
      sharingKv: config.layers.filter((layer) => layer.sharesKv).length,
    },
    hidden: config.hidden,
    vocabulary: config.vocabulary,
    contextLength: config.contextLength,
    slidingWindow: config.slidingWindow,
    perLayerWidth: config.perLayerWidth,
    experts: config.experts === null ? null : { count: config.experts.count, used: config.experts.used },
    towers: {
      tensors: bound.towers.length,
      bytes: bound.towers.reduce((sum, { byteLength }) => sum + byteLength, 0),
    },
    unusedKvValues: bound.weights.reduce(
      (sum, { weight }) => sum + (weight.unused ? product(weight.shape) : 0),
      0,
    ),
    tensors,
  };
}

function inspectGguf(path: string, { model }: GgufSource): InspectedGguf {
  const tensors = model.tensors.map(({ name, type, ne, byteLength, part, offset }) => ({
    name,
    type,
    shape: ne,
    bytes: byteLength,
    file: baseName(model.paths[part] ?? path),
    offset,
  }));
  return {
    kind: "gguf",
    path,
    files: model.paths.map((file, part) => ({ file: baseName(file), bytes: model.sizes[part] ?? 0 })),
    ...totals(tensors),
    version: model.version,
    alignment: model.alignment,
    metadata: inspectMetadata(model.metadata),
    tensors,
  };
}

/** What a checkpoint folder, a GGUF file, an ONNX file or a folder of such holds, from headers and graphs alone. */
export async function inspect(path: string): Promise<Inspected> {
  const graphs = await findOnnx(path);
  if (graphs !== null) return inspectOnnx(path, graphs);
  const source = await openSource(path);
  return source.kind === "checkpoint" ? inspectCheckpoint(path, source) : inspectGguf(path, source);
}
