import { describe, expect, test } from "vitest";
import { GgufError } from "../../../formats/gguf/errors.js";
import { readGguf } from "../../../formats/gguf/read.js";
import type { GgufFile } from "../../../formats/gguf/types.js";
import type { ByteSource } from "../../../formats/source.js";
import { ggmlAccepts, hasGgml } from "../../support/ggml.js";
import {
  craft,
  type Crafted,
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

/** Malformed files, each with the code and a word of the error; `lax` where llama.cpp lets it pass. */
const MALFORMED: Record<string, { file: Crafted | Uint8Array; code: string; says: string; lax?: true }> = {
  "an empty file": { file: Buffer.alloc(0), code: "gguf-magic", says: "begin" },
  "three bytes": { file: Buffer.from("GGU"), code: "gguf-magic", says: "begin" },
  "another format": { file: { magic: "FUGG" }, code: "gguf-magic", says: "begin" },
  "version 0": { file: { version: 0 }, code: "gguf-version", says: "version 0" },
  "version 1": { file: { version: 1 }, code: "gguf-version", says: "version 1" },
  "a later version": { file: { version: 4 }, code: "gguf-version", says: "version 4" },
  "a big-endian file": { file: { version: 0x03000000 }, code: "gguf-version", says: "big-endian" },
  "a header cut short": {
    file: craft({}).subarray(0, 20),
    code: "gguf-truncated",
    says: "metadata count needs 8 bytes",
  },
  "a negative tensor count": { file: { tensorCount: -1n }, code: "gguf-limit", says: "tensor count" },
  "a negative key count": { file: { keyCount: -1n }, code: "gguf-limit", says: "metadata count" },
  "2^30 tensors": { file: { tensorCount: 2 ** 30 }, code: "gguf-limit", says: "tensors" },
  "2^30 keys": { file: { keyCount: 2 ** 30 }, code: "gguf-limit", says: "metadata keys" },
  "more keys than bytes": { file: { keyCount: 60_000 }, code: "gguf-truncated", says: "left" },
  "more tensors than bytes": { file: { tensorCount: 60_000 }, code: "gguf-truncated", says: "left" },
  "an empty key": { file: { entries: [entry("", 0, Buffer.of(1))] }, code: "gguf-name", says: "empty" },
  "a key of 65,536 bytes": {
    file: { entries: [entry("k".repeat(65_536), 0, Buffer.of(1))] },
    code: "gguf-limit",
    says: "more than 65535",
    lax: true,
  },
  "a key longer than the file": {
    file: { entries: [Buffer.concat([u64(1000), Buffer.from("key")])] },
    code: "gguf-truncated",
    says: "metadata key 0 needs 1000 bytes",
  },
  "a key of 2^64 - 1 bytes": {
    file: { entries: [Buffer.concat([u64(-1n), Buffer.alloc(40)])] },
    code: "gguf-limit",
    says: "2^53",
  },
  "a key that is not UTF-8": {
    file: { entries: [entry(Uint8Array.of(0x6b, 0xff), 0, Buffer.of(1))] },
    code: "gguf-text",
    says: "UTF-8",
    lax: true,
  },
  "a key with a NUL byte": {
    file: { entries: [entry("k\0", 0, Buffer.of(1))] },
    code: "gguf-name",
    says: "NUL",
    lax: true,
  },
  "a key given twice": {
    file: { entries: [entry("k", 0, Buffer.of(1)), entry("k", STRING, string(""))] },
    code: "gguf-name",
    says: "twice",
  },
  "an unknown value type": {
    file: { entries: [entry("k", 13, Buffer.alloc(8))] },
    code: "gguf-metadata",
    says: "unknown type 13",
  },
  "an unknown element type": {
    file: { entries: [entry("k", ARRAY, u32(77), u64(0))] },
    code: "gguf-metadata",
    says: "unknown type 77",
  },
  "an array of arrays": {
    file: { entries: [entry("k", ARRAY, u32(ARRAY), u64(1), u32(0), u64(0))] },
    code: "gguf-metadata",
    says: "array of arrays",
  },
  "an array longer than the file": {
    file: { entries: [entry("k", ARRAY, u32(U32), u64(1_000_000))] },
    code: "gguf-truncated",
    says: "4000000 bytes",
  },
  "an array of 2^31 elements": {
    file: { entries: [entry("k", ARRAY, u32(0), u64(2 ** 31))] },
    code: "gguf-limit",
    says: "elements",
  },
  "more strings than bytes": {
    file: { entries: [entry("k", ARRAY, u32(STRING), u64(100), encodedStrings(["a"]))] },
    code: "gguf-truncated",
    says: "800 bytes",
  },
  "a string in a list longer than the file": {
    file: {
      entries: [entry("k", ARRAY, u32(STRING), u64(2), encodedStrings(["a"]), u64(5000), Buffer.from("b"))],
    },
    code: "gguf-truncated",
    says: "string 1 of",
  },
  "a string in a list of 2^62 bytes": {
    file: {
      entries: [entry("k", ARRAY, u32(STRING), u64(2), encodedStrings(["a"]), u64(2n ** 62n))],
    },
    code: "gguf-limit",
    says: "string 1 of",
  },
  "a string of 2^29 bytes": {
    file: { entries: [entry("k", STRING, u64(2 ** 29))] },
    code: "gguf-limit",
    says: "more than",
  },
  "a string that is not UTF-8": {
    file: { entries: [entry("k", STRING, string(Uint8Array.of(0xc0, 0x80)))] },
    code: "gguf-text",
    says: "UTF-8",
    lax: true,
  },
  "a boolean of 2": {
    file: { entries: [entry("k", 7, Buffer.of(2))] },
    code: "gguf-metadata",
    says: "boolean of value 2",
    lax: true,
  },
  "a boolean of 255 in a list": {
    file: { entries: [entry("k", ARRAY, u32(7), u64(2), Buffer.of(1, 255))] },
    code: "gguf-metadata",
    says: "boolean of value 255",
    lax: true,
  },
  "an alignment of 0": {
    file: { entries: [entry(ALIGNMENT, U32, u32(0))] },
    code: "gguf-alignment",
    says: "power of two",
  },
  "an alignment of 48": {
    file: { entries: [entry(ALIGNMENT, U32, u32(48))] },
    code: "gguf-alignment",
    says: "is 48",
  },
  "an alignment in 64 bits": {
    file: { entries: [entry(ALIGNMENT, 10, u64(32))] },
    code: "gguf-alignment",
    says: "of type u64",
  },
  "an alignment as a list": {
    file: { entries: [entry(ALIGNMENT, ARRAY, u32(U32), u64(1), u32(32))] },
    code: "gguf-alignment",
    says: "of type array",
  },
  "a tensor without a name": {
    file: { tensors: [tensorInfo({ name: "" })] },
    code: "gguf-name",
    says: "empty",
    lax: true,
  },
  "a tensor name of 64 bytes": {
    file: { tensors: [tensorInfo({ name: "n".repeat(64) })] },
    code: "gguf-limit",
    says: "more than 63",
  },
  "a tensor name with a NUL byte": {
    file: { tensors: [tensorInfo({ name: "a\0b" })] },
    code: "gguf-name",
    says: "NUL",
    lax: true,
  },
  "a tensor name given twice": {
    file: { tensors: [tensorInfo(), tensorInfo({ offset: 32 })] },
    code: "gguf-name",
    says: "twice",
  },
  "a tensor without dimensions": {
    file: { tensors: [tensorInfo({ ne: [] })] },
    code: "gguf-tensor-shape",
    says: "0 dimensions",
    lax: true,
  },
  "a tensor of five dimensions": {
    file: { tensors: [tensorInfo({ ne: [1, 1, 1, 1, 1] })] },
    code: "gguf-tensor-shape",
    says: "5 dimensions",
  },
  "2^32 - 1 dimensions": {
    file: { tensors: [tensorInfo({ dimensions: 0xffffffff })] },
    code: "gguf-tensor-shape",
    says: "dimensions",
  },
  "a dimension of 0": {
    file: { tensors: [tensorInfo({ ne: [8, 0] })] },
    code: "gguf-tensor-shape",
    says: "positive",
    lax: true,
  },
  "a negative dimension": {
    file: { tensors: [tensorInfo({ ne: [-8n] })] },
    code: "gguf-limit",
    says: "2^53",
  },
  "dimensions whose product passes 2^63": {
    file: { tensors: [tensorInfo({ ne: [2 ** 32, 2 ** 31, 3] })] },
    code: "gguf-tensor-shape",
    says: "larger than 2^53",
  },
  // llama.cpp takes the wrapped product for a tensor of no elements.
  "dimensions whose product wraps to 0 in 64 bits": {
    file: { tensors: [tensorInfo({ ne: [2 ** 32, 2 ** 31, 4] })] },
    code: "gguf-tensor-shape",
    says: "larger than 2^53",
    lax: true,
  },
  "a tensor type that was retired": {
    file: { tensors: [tensorInfo({ ne: [32], type: 4 })] },
    code: "gguf-tensor-type",
    says: "type id 4",
  },
  "an unknown tensor type": {
    file: { tensors: [tensorInfo({ type: 43 })] },
    code: "gguf-tensor-type",
    says: "type id 43",
  },
  "a negative tensor type": {
    file: { tensors: [tensorInfo({ type: 0xffffffff })] },
    code: "gguf-tensor-type",
    says: "type id",
  },
  "a tensor type for activations": {
    file: { tensors: [tensorInfo({ ne: [256], type: 15 })] },
    code: "gguf-tensor-type",
    says: "type id 15",
    lax: true,
  },
  "rows that are no whole blocks": {
    file: { tensors: [tensorInfo({ ne: [48, 2], type: 2 })] },
    code: "gguf-tensor-shape",
    says: "multiple of 32",
  },
  "a first tensor that is not at the start": {
    file: { tensors: [tensorInfo({ offset: 32 })] },
    code: "gguf-tensor-offset",
    says: "expected 0",
  },
  "tensors that overlap": {
    file: { tensors: [tensorInfo({ name: "a", ne: [16] }), tensorInfo({ name: "b", offset: 32 })] },
    code: "gguf-tensor-offset",
    says: "expected 64",
  },
  "a gap between tensors": {
    file: { tensors: [tensorInfo({ name: "a" }), tensorInfo({ name: "b", offset: 64 })] },
    code: "gguf-tensor-offset",
    says: "expected 32",
  },
  "an offset that is not aligned": {
    file: { tensors: [tensorInfo({ name: "a", ne: [1] }), tensorInfo({ name: "b", offset: 4 })] },
    code: "gguf-tensor-offset",
    says: "expected 32",
  },
  "an offset beyond 2^53": {
    file: { tensors: [tensorInfo({ offset: 2n ** 63n })] },
    code: "gguf-limit",
    says: "2^53",
  },
  "tensor data that is cut short": {
    file: { tensors: [tensorInfo()], data: 31 },
    code: "gguf-truncated",
    says: "the file has",
    lax: true,
  },
  "a tensor of 2^53 bytes": {
    file: { tensors: [tensorInfo({ ne: [2 ** 51] })] },
    code: "gguf-tensor-shape",
    says: "larger than",
    lax: true,
  },
};

describe("a malformed file", () => {
  test.each(Object.entries(MALFORMED))("is refused: %s", async (_, { file, code, says }) => {
    const bytes = file instanceof Uint8Array ? file : craft(file);
    const error: unknown = await read(bytes).then(
      () => undefined,
      (error: unknown) => error,
    );
    expect(error).toBeInstanceOf(GgufError);
    const { code: found, message } = error as GgufError;
    expect({ found, message }).toEqual({ found: code, message: expect.stringContaining(says) as unknown });
    expect(message).toMatch(/^memory\.gguf: [^\n]+\.$/);
  });

  test.skipIf(!hasGgml).each(Object.entries(MALFORMED))(
    "is refused by llama.cpp too, where not marked as accepted: %s",
    (_, { file, lax = false }) => {
      expect(ggmlAccepts(file instanceof Uint8Array ? file : craft(file))).toBe(lax);
    },
  );

  test("is refused before anything of its claimed size is allocated or read", async () => {
    const bytes = craft({ entries: [entry("k", STRING, u64(2 ** 27))] });
    const source = new MemorySource(bytes);
    await expect(readGguf(source)).rejects.toThrow("134217728 bytes");
    expect(source.bytesRead).toBeLessThanOrEqual(bytes.length);
  });

  test("is refused when its header grows beyond every real one, however large the file", async () => {
    const [first, second] = ["a", "b"].map((key) => entry(key, ARRAY, u32(12), u64(2 ** 26))) as [
      Buffer,
      Buffer,
    ];
    const start = craft({ keyCount: 3, entries: [first] }).subarray(0, 24 + first.length);
    const secondAt = start.length + 2 ** 29;
    // All but the two descriptions is a hole, so that half a gibibyte is announced but not touched.
    const source: ByteSource = {
      name: "sparse.gguf",
      size: 2 ** 40,
      async read(target, position) {
        for (const [at, bytes] of [[0, start] as const, [secondAt, second] as const]) {
          if (position <= at && position + target.length >= at + bytes.length)
            target.set(bytes, at - position);
        }
      },
      async close() {},
    };
    await expect(readGguf(source)).rejects.toThrow("makes the header larger than 1073741824 bytes");
  });
});
