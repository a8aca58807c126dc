import { createHash } from "node:crypto";
import { readFileSync } from "node:fs";
import { describe, expect, it } from "vitest";
import { openGguf } from "../../formats/gguf/read.js";
import type { GgufValue } from "../../formats/gguf/types.js";
import { convertFixture } from "../support/convert.js";

interface Golden {
  readonly metadata: readonly {
    readonly key: string;
    readonly type: readonly string[];
    readonly value: unknown;
  }[];
  readonly tensors: readonly {
    readonly name: string;
    readonly type: string;
    readonly ne: readonly number[];
    readonly offset: number;
    readonly bytes: number;
    readonly sha256: string;
  }[];
}

const TYPE_NAMES: Readonly<Record<string, string>> = {
  u8: "UINT8",
  i8: "INT8",
  u16: "UINT16",
  i16: "INT16",
  u32: "UINT32",
  i32: "INT32",
  f32: "FLOAT32",
  bool: "BOOL",
  string: "STRING",
  u64: "UINT64",
  i64: "INT64",
  f64: "FLOAT64",
};

/** Long lists stand in the golden file as their length, a hash of the lines, and the first elements. */
function plain(value: GgufValue, golden: unknown): unknown {
  if (value.type !== "array") return value.value;
  const elements = Array.from(value.value as Iterable<unknown>);
  if (typeof golden !== "object" || golden === null || !("sha256" in golden)) return elements;
  return {
    count: elements.length,
    sha256: createHash("sha256").update(elements.join("\n")).digest("hex"),
    first: elements.slice(0, (golden as unknown as { first: unknown[] }).first.length),
  };
}

/** The folder's name decides these two; the golden files were made in a folder of the same name. */
describe.each(["bf16", "f16", "q8_0"])("convert --type %s --match-converter", (type) => {
  const golden = JSON.parse(readFileSync(`fixtures/reference/convert-${type}.json`, "utf8")) as Golden;

  it("writes the metadata of llama.cpp's converter, key for key", async () => {
    const model = await openGguf(await convertFixture(type, { matchConverter: true }));
    const ours = [...model.metadata].map(([key, value], index) => ({
      key,
      type: value.type === "array" ? ["ARRAY", TYPE_NAMES[value.of]] : [TYPE_NAMES[value.type]],
      value: plain(value, golden.metadata[index]?.value),
    }));
    expect(ours).toEqual(golden.metadata);
  });

  it("writes its tensors, byte for byte and at the same place", async () => {
    const path = await convertFixture(type, { matchConverter: true });
    const bytes = readFileSync(path);
    const { tensors } = await openGguf(path);
    const first = tensors[0]?.offset ?? 0;
    const ours = tensors.map(({ name, type, ne, offset, byteLength }) => ({
      name,
      type,
      ne,
      offset: offset - first,
      bytes: byteLength,
      sha256: createHash("sha256")
        .update(bytes.subarray(offset, offset + byteLength))
        .digest("hex"),
    }));
    const base = golden.tensors[0]?.offset ?? 0;
    expect(ours).toEqual(golden.tensors.map((tensor) => ({ ...tensor, offset: tensor.offset - base })));
  });
});
