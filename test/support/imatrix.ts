import { writeFileSync } from "node:fs";
import { planGguf } from "../../formats/gguf/plan.js";
import type { GgufStrings } from "../../formats/gguf/types.js";
import type { SummedEntry } from "../../formats/imatrix/types.js";

/** A list of strings as a GGUF file holds it. */
export function stringsOf(list: readonly string[]): GgufStrings {
  const parts = list.map((text) => {
    const bytes = Buffer.alloc(8 + Buffer.byteLength(text));
    bytes.writeBigUInt64LE(BigInt(Buffer.byteLength(text)));
    bytes.write(text, 8);
    return bytes;
  });
  return {
    length: list.length,
    bytes: new Uint8Array(Buffer.concat(parts)),
    at: (index: number) => list[index] ?? "",
    [Symbol.iterator]: () => list[Symbol.iterator](),
  };
}

const HEAD: Parameters<typeof planGguf>[0]["metadata"] = [
  ["imatrix.datasets", { type: "array", of: "string", value: stringsOf(["a/b.txt"]) }],
  ["imatrix.chunk_count", { type: "u32", value: 3 }],
  ["imatrix.chunk_size", { type: "u32", value: 512 }],
];

/** Writes a GGUF whose tensors are float32 lists; returns its path. */
export function writeFloats(
  path: string,
  lists: ReadonlyMap<string, ArrayLike<number>>,
  metadata: Parameters<typeof planGguf>[0]["metadata"] = HEAD,
): string {
  const layout = planGguf({
    metadata,
    tensors: [...lists].map(([name, { length }]) => ({ name, type: "F32", ne: [length] })),
  });
  const bytes = new Uint8Array(layout.size);
  bytes.set(layout.parts[0]?.header ?? []);
  for (const { name, offset } of layout.tensors) {
    bytes.set(new Uint8Array(Float32Array.from(lists.get(name) ?? []).buffer), offset);
  }
  writeFileSync(path, bytes);
  return path;
}

/** Writes an importance matrix of mean squares in one count. */
export function writeImatrix(path: string, importances: ReadonlyMap<string, ArrayLike<number>>): string {
  const lists = [...importances].flatMap(([name, values]): [string, ArrayLike<number>][] => [
    [`${name}.in_sum2`, values],
    [`${name}.counts`, [1]],
  ]);
  return writeFloats(path, new Map(lists));
}

/** The numbers of an entry in float32, as files have them. */
export interface PlainEntry {
  readonly columns: number;
  readonly sums: readonly number[];
  readonly counts: readonly number[];
}

/** Entries as plain lists, by name. */
export function contentsOf(entries: Iterable<SummedEntry>): Readonly<Record<string, PlainEntry>> {
  const plain = [...entries].map(({ name, columns, sums, counts }): [string, PlainEntry] => [
    name,
    { columns, sums: [...Float32Array.from(sums)], counts: [...Float32Array.from(counts)] },
  ]);
  return Object.fromEntries(plain);
}

export interface LegacyEntry {
  readonly name: string;
  readonly calls: number;
  readonly values: readonly number[];
}

/** Bytes of a `.dat` file of llama-imatrix. */
export function legacyBytes(entries: readonly LegacyEntry[], tail: Buffer = Buffer.alloc(0)): Buffer {
  const int = (value: number): Buffer => {
    const bytes = Buffer.alloc(4);
    bytes.writeInt32LE(value);
    return bytes;
  };
  const parts = entries.flatMap(({ name, calls, values }) => [
    int(Buffer.byteLength(name)),
    Buffer.from(name),
    int(calls),
    int(values.length),
    Buffer.from(Float32Array.from(values).buffer),
  ]);
  return Buffer.concat([int(entries.length), ...parts, tail]);
}
