import { describe, expect, test } from "vitest";
import { readGguf } from "../../../formats/gguf/read.js";
import type { GgufFile } from "../../../formats/gguf/types.js";
import {
  craft,
  encodedStrings,
  entry,
  MemorySource,
  plainMetadata,
  string,
  tensorInfo,
  u32,
  u64,
} from "./support.js";

const read = (bytes: Uint8Array): Promise<GgufFile> => readGguf(new MemorySource(bytes));

const STRING = 8;
const ARRAY = 9;
const U32 = 4;
const ALIGNMENT = "general.alignment";

describe("a sound file", () => {
  test("with nothing in it", async () => {
    const bytes = craft({});
    expect(await read(bytes.subarray(0, 24))).toEqual({
      version: 3,
      byteOrder: "LE",
      alignment: 32,
      metadata: new Map(),
      tensors: [],
      dataStart: 24,
    });
  });

  test("with every kind of value, in version 2 and 3", async () => {
    const f32 = Buffer.alloc(4);
    f32.writeFloatLE(-0.5);
    const f64 = Buffer.alloc(8);
    f64.writeDoubleLE(Math.PI);
    for (const version of [2, 3]) {
      const file = await read(
        craft({
          version,
          entries: [
            entry("u8", 0, Buffer.of(0xff)),
            entry("i8", 1, Buffer.of(0xff)),
            entry("u16", 2, Buffer.of(0xfe, 0xff)),
            entry("i16", 3, Buffer.of(0xfe, 0xff)),
            entry("u32", 4, u32(0xfffffffd)),
            entry("i32", 5, u32(0xfffffffd)),
            entry("f32", 6, f32),
            entry("bool", 7, Buffer.of(1)),
            entry("string", STRING, string("ein Wörtchen\0\uFEFF")),
            entry("u64", 10, u64(-4n)),
            entry("i64", 11, u64(-4n)),
            entry("f64", 12, f64),
            entry("i16s", ARRAY, u32(3), u64(2), Buffer.of(1, 0, 0xff, 0xff)),
            entry("u64s", ARRAY, u32(10), u64(1), u64(-1n)),
            entry("bools", ARRAY, u32(7), u64(3), Buffer.of(0, 1, 0)),
            entry("strings", ARRAY, u32(STRING), u64(3), encodedStrings(["", "b", "ß"])),
            entry("none", ARRAY, u32(STRING), u64(0)),
            entry("last", STRING, string("")),
          ],
        }),
      );
      expect(file.version).toBe(version);
      expect(plainMetadata(file.metadata)).toEqual([
        ["u8", { type: "u8", value: 255 }],
        ["i8", { type: "i8", value: -1 }],
        ["u16", { type: "u16", value: 65_534 }],
        ["i16", { type: "i16", value: -2 }],
        ["u32", { type: "u32", value: 4_294_967_293 }],
        ["i32", { type: "i32", value: -3 }],
        ["f32", { type: "f32", value: -0.5 }],
        ["bool", { type: "bool", value: true }],
        ["string", { type: "string", value: "ein Wörtchen\0\uFEFF" }],
        ["u64", { type: "u64", value: 2n ** 64n - 4n }],
        ["i64", { type: "i64", value: -4n }],
        ["f64", { type: "f64", value: Math.PI }],
        ["i16s", { type: "array", of: "i16", value: [1, -1] }],
        ["u64s", { type: "array", of: "u64", value: [2n ** 64n - 1n] }],
        ["bools", { type: "array", of: "bool", value: [false, true, false] }],
        ["strings", { type: "array", of: "string", value: ["", "b", "ß"] }],
        ["none", { type: "array", of: "string", value: [] }],
        ["last", { type: "string", value: "" }],
      ]);
    }
  });

  test("with tensors, aligned as it says", async () => {
    const bytes = craft({
      alignment: 128,
      entries: [entry(ALIGNMENT, U32, u32(128))],
      tensors: [
        tensorInfo({ name: "a", ne: [32, 2], type: 2 }),
        tensorInfo({ name: "b", ne: [1, 1, 1, 1], offset: 128 }),
      ],
    });
    const file = await read(bytes);
    expect(file.alignment).toBe(128);
    expect(file.dataStart % 128).toBe(0);
    expect(file.tensors).toEqual([
      { name: "a", type: "Q4_0", ne: [32, 2], part: 0, offset: file.dataStart, byteLength: 36 },
      { name: "b", type: "F32", ne: [1, 1, 1, 1], part: 0, offset: file.dataStart + 128, byteLength: 4 },
    ]);
  });

  test("whose last tensor is not padded", async () => {
    const bytes = craft({ tensors: [tensorInfo({ ne: [3] })], data: 12 });
    expect((await read(bytes)).tensors[0]!.byteLength).toBe(12);
  });

  test("is read in chunks, its tensor data left alone", async () => {
    const tokens = Array.from({ length: 30_000 }, (_, index) => `token number ${index} of the vocabulary`);
    tokens[777] = "long ".repeat(500_000);
    const numbers = Uint32Array.from({ length: 600_000 }, (_, index) => index);
    const header = craft({
      entries: [
        entry("tokens", ARRAY, u32(STRING), u64(tokens.length), encodedStrings(tokens)),
        entry("numbers", ARRAY, u32(U32), u64(numbers.length), Buffer.from(numbers.buffer)),
        entry("text", STRING, string("x".repeat(1_500_000))),
      ],
      tensors: [tensorInfo({ ne: [2 ** 32] })],
      data: 0,
    });
    const source = new MemorySource(header, header.length + 2 ** 34);
    const { metadata } = await readGguf(source);
    expect(source.bytesRead).toBeLessThan(header.length + 2 ** 20);
    const list = metadata.get("tokens");
    // Joined: comparing long lists element by element takes seconds.
    expect(
      list?.type === "array" && list.of === "string" && [...list.value].join("\n") === tokens.join("\n"),
    ).toBe(true);
    const found = metadata.get("numbers")?.value as Uint32Array;
    expect(found.length === numbers.length && found.every((n, index) => n === numbers[index])).toBe(true);
    expect(metadata.get("text")?.value).toHaveLength(1_500_000);
  });
});
