import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import * as fc from "fast-check";
import { onTestFinished } from "vitest";
import { FormatError } from "../../../formats/errors.js";
import { GgufStrings } from "../../../formats/gguf/strings.js";
import { TENSOR_TYPES } from "../../../formats/gguf/tensor-types.js";
import type { GgufArray, GgufMetadata, GgufValue } from "../../../formats/gguf/types.js";
import { gguf } from "../../../formats/gguf/values.js";
import type { GgufTensorPlan } from "../../../formats/gguf/plan.js";
import type { ByteSource } from "../../../formats/source.js";

/** A folder that goes away with the test. */
export function temporaryFolder(): string {
  const folder = mkdtempSync(join(tmpdir(), "lapidary-gguf-"));
  onTestFinished(() => rmSync(folder, { recursive: true, force: true }));
  return folder;
}

/** A source over bytes in memory that notes how much was asked for. */
export class MemorySource implements ByteSource {
  readonly name = "memory.gguf";
  readonly size: number;
  bytesRead = 0;
  readonly #bytes: Uint8Array;

  /** @param size claimed size, when it is not that of the bytes */
  constructor(bytes: Uint8Array, size = bytes.length) {
    this.#bytes = bytes;
    this.size = size;
  }

  async read(target: Uint8Array, position: number): Promise<void> {
    if (position + target.length > this.size) throw new FormatError("file-range", "read beyond the end");
    this.bytesRead += target.length;
    target.set(this.#bytes.subarray(position, position + target.length));
  }

  async close(): Promise<void> {}
}

/** Values as plain arrays, so that they can be compared whatever holds them. */
export function plainValue(value: GgufValue): unknown {
  if (value.type !== "array") return value;
  return {
    ...value,
    value: value.of === "string" ? [...value.value] : Array.from(value.value as ArrayLike<unknown>),
  };
}

export function plainMetadata(metadata: GgufMetadata | Iterable<readonly [string, GgufValue]>): unknown {
  return [...metadata].map(([key, value]) => [key, plainValue(value)]);
}

const INTEGER_RANGES = {
  u8: [0, 0xff],
  i8: [-0x80, 0x7f],
  u16: [0, 0xffff],
  i16: [-0x8000, 0x7fff],
  u32: [0, 0xffffffff],
  i32: [-0x80000000, 0x7fffffff],
} as const;

/** For each type: a generator of single values. */
const singles = {
  ...(Object.fromEntries(
    Object.entries(INTEGER_RANGES).map(([type, [min, max]]) => [type, fc.integer({ min, max })]),
  ) as Record<keyof typeof INTEGER_RANGES, fc.Arbitrary<number>>),
  f32: fc.float(),
  f64: fc.double(),
};

const NUMBER_TYPES = ["u8", "i8", "u16", "i16", "u32", "i32", "f32", "f64"] as const;

const text = fc.string({ unit: "binary", maxLength: 12 });

const scalars: fc.Arbitrary<GgufValue>[] = [
  ...NUMBER_TYPES.map((type) => singles[type].map((value): GgufValue => ({ type, value }))),
  fc.bigInt({ min: 0n, max: 2n ** 64n - 1n }).map(gguf.u64),
  fc.bigInt({ min: -(2n ** 63n), max: 2n ** 63n - 1n }).map(gguf.i64),
  fc.boolean().map(gguf.bool),
  text.map(gguf.string),
];

const arrays: fc.Arbitrary<GgufArray>[] = [
  ...NUMBER_TYPES.map((type) => fc.array(singles[type], { maxLength: 9 }).map((v) => gguf.array(type, v))),
  fc.array(fc.bigInt({ min: 0n, max: 2n ** 64n - 1n }), { maxLength: 9 }).map((v) => gguf.array("u64", v)),
  fc
    .array(fc.bigInt({ min: -(2n ** 63n), max: 2n ** 63n - 1n }), { maxLength: 9 })
    .map((v) => gguf.array("i64", v)),
  fc.array(fc.boolean(), { maxLength: 9 }).map((v) => gguf.array("bool", v)),
  fc.array(text, { maxLength: 9 }).map((v) => gguf.array("string", v)),
];

/** Keys and values of every type; keys as real ones, dots and lower case. */
export const anyMetadata = fc.uniqueArray(
  fc.tuple(
    fc.stringMatching(/^[a-z][a-z0-9_]{0,8}(\.[a-z0-9_]{1,8}){0,3}$/),
    fc.oneof(...scalars, ...arrays),
  ),
  { selector: ([key]) => key, maxLength: 24 },
);

/** Tensors of every type, in shapes whose last dimension is above 1 as ggml writes them. */
export const anyTensors: fc.Arbitrary<GgufTensorPlan[]> = fc
  .array(
    fc.record({
      type: fc.constantFrom(...TENSOR_TYPES),
      blocks: fc.integer({ min: 1, max: 3 }),
      rest: fc.array(fc.integer({ min: 2, max: 4 }), { maxLength: 3 }),
      suffix: fc.string({ unit: "binary", maxLength: 8 }),
    }),
    { maxLength: 12 },
  )
  .map((list) =>
    list.map(({ type, blocks, rest, suffix }, index) => ({
      name: `blk.${index}.${suffix.replaceAll("\0", "")}`,
      type: type.name,
      ne: [type.blockValues * blocks, ...rest],
    })),
  );

/** The bytes of a list of strings, made without the code under test. */
export function encodedStrings(values: readonly string[]): Buffer {
  return Buffer.concat(
    values.map((value) => Buffer.concat([u64(Buffer.byteLength(value)), Buffer.from(value)])),
  );
}

export function u32(value: number): Buffer {
  const bytes = Buffer.alloc(4);
  bytes.writeUInt32LE(value);
  return bytes;
}

export function u64(value: number | bigint): Buffer {
  const bytes = Buffer.alloc(8);
  bytes.writeBigUInt64LE(BigInt.asUintN(64, BigInt(value)));
  return bytes;
}

export function string(value: string | Uint8Array): Buffer {
  const bytes = Buffer.from(value);
  return Buffer.concat([u64(bytes.length), bytes]);
}

/** A file by hand; whatever is left out is what a sound file has. */
export interface Crafted {
  magic?: string;
  version?: number;
  tensorCount?: number | bigint;
  keyCount?: number | bigint;
  /** Each the bytes of one key with its type and value. */
  entries?: Uint8Array[];
  tensors?: Uint8Array[];
  alignment?: number;
  /** Bytes of tensor data; by default what one tensor of `tensorInfo()` takes, padded. */
  data?: number;
}

export function craft(file: Crafted): Buffer {
  const { entries = [], tensors = [], alignment = 32 } = file;
  const header = Buffer.concat([
    Buffer.from(file.magic ?? "GGUF"),
    u32(file.version ?? 3),
    u64(file.tensorCount ?? tensors.length),
    u64(file.keyCount ?? entries.length),
    ...entries,
    ...tensors,
  ]);
  const start = Math.ceil(header.length / alignment) * alignment;
  return Buffer.concat([header], start + (file.data ?? tensors.length * Math.max(32, alignment)));
}

export function entry(key: string | Uint8Array, type: number, ...value: Uint8Array[]): Buffer {
  return Buffer.concat([string(key), u32(type), ...value]);
}

/** One tensor's description: by default eight F32 values at offset 0. */
export function tensorInfo(
  options: {
    name?: string | Uint8Array;
    dimensions?: number;
    ne?: (number | bigint)[];
    type?: number;
    offset?: number | bigint;
  } = {},
): Buffer {
  const { name = "t", ne = [8], type = 0, offset = 0 } = options;
  return Buffer.concat([
    string(name),
    u32(options.dimensions ?? ne.length),
    ...ne.map(u64),
    u32(type),
    u64(offset),
  ]);
}

/** A list of strings of the class, for tests that need one. */
export const strings = (...values: string[]): GgufStrings => GgufStrings.from(values);
