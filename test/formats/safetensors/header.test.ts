import { describe, expect, test } from "vitest";
import { MAX_HEADER_BYTES } from "../../../formats/safetensors/limits.js";
import { readHeader } from "../../../formats/safetensors/read.js";
import { DTYPE_BITS } from "../../../formats/safetensors/types.js";
import { MemorySource, rawFile } from "./support.js";

const u8 = (shape: unknown, begin: unknown, end: unknown): object => ({
  dtype: "U8",
  shape,
  data_offsets: [begin, end],
});

const read = (file: Uint8Array): ReturnType<typeof readHeader> => readHeader(new MemorySource(file));

describe("readHeader", () => {
  test("gives tensors by offset, whatever the order of the keys", async () => {
    const file = rawFile({ b: u8([2, 3], 5, 11), "1": u8([], 4, 5), a: u8([4], 0, 4) }, 11);
    const start = file.byteLength - 11;
    const source = new MemorySource(file);
    expect((await readHeader(source, 3)).tensors).toEqual([
      { name: "a", dtype: "U8", shape: [4], shard: 3, offset: start, byteLength: 4 },
      { name: "1", dtype: "U8", shape: [], shard: 3, offset: start + 4, byteLength: 1 },
      { name: "b", dtype: "U8", shape: [2, 3], shard: 3, offset: start + 5, byteLength: 6 },
    ]);
    expect(source.largest).toBe(start - 8);
  });

  test("takes files without tensors, empty tensors, unknown fields and padding", async () => {
    expect((await read(rawFile("{}"))).tensors).toEqual([]);
    const header = `{"x":${JSON.stringify({ ...u8([1], 0, 1), extra: { deep: [1] } })},"none":${JSON.stringify(u8([0, 5], 0, 0))}}   `;
    expect((await read(rawFile(header, 1))).tensors.map(({ name }) => name)).toEqual(["none", "x"]);
  });

  test("takes names that JavaScript objects are touchy about", async () => {
    const header = `{"__metadata__":{"__proto__":"p","constructor":"c"},"__proto__":${JSON.stringify(u8([1], 0, 1))},"toString":${JSON.stringify(u8([1], 1, 2))},"":${JSON.stringify(u8([1], 2, 3))}}`;
    const { tensors, metadata } = await read(rawFile(header, 3));
    expect(tensors.map(({ name }) => name)).toEqual(["__proto__", "toString", ""]);
    expect(Object.entries(metadata)).toEqual([
      ["__proto__", "p"],
      ["constructor", "c"],
    ]);
    expect(metadata["hasOwnProperty"]).toBeUndefined();
    expect(({} as Record<string, unknown>)["p"]).toBeUndefined();
  });

  test("is not led astray by brackets and quotes inside texts", async () => {
    const format = '"[[[[[{"k":1,"k":2}\\';
    expect((await read(rawFile({ __metadata__: { format } }))).metadata["format"]).toBe(format);
  });

  test.each(Object.entries(DTYPE_BITS))("knows the width of %s: %d bits", async (dtype, bits) => {
    const file = (bytes: number): Buffer =>
      rawFile({ x: { dtype, shape: [2, 4], data_offsets: [0, bytes] } }, bytes);
    expect((await read(file(bits))).tensors[0]).toMatchObject({ dtype, byteLength: bits });
    await expect(read(file(bits + 1))).rejects.toThrow(`expected ${bits} bytes for ${dtype}`);
  });
});

const tensor = (info: unknown): unknown => ({ x: info });
const nested = `{"x":${"[".repeat(100_000)}${"]".repeat(100_000)}}`;

/** What is wrong, the file, the code of the error, and what its message has to say. */
const REFUSED: readonly (readonly [what: string, file: Buffer, code: string, says: string])[] = [
  ["no room for a length", Buffer.from([2, 0, 0]), "header", "the file has 3 bytes"],
  ["a length beyond the file", rawFile("{}", 0, 3n), "header", "claims 3 bytes, the file has 10"],
  [
    "a length above the cap",
    rawFile("{}", 0, BigInt(MAX_HEADER_BYTES) + 1n),
    "header",
    "expected at most 100000000",
  ],
  ["a length above 2^53", rawFile("{}", 0, 2n ** 64n - 1n), "header", "claims 18446744073709551615 bytes"],
  ["an empty header", rawFile(""), "header", "does not start with a brace"],
  ["a header that is a list", rawFile("[]"), "header", "does not start with a brace"],
  ["white space in front", rawFile(" {}"), "header", "does not start with a brace"],
  ["a byte order mark", rawFile("\ufeff{}"), "header", "does not start with a brace"],
  ["bytes that are not UTF-8", rawFile(Buffer.from([0x7b, 0x22, 0xff, 0x22, 0x7d])), "json", "is not UTF-8"],
  ["broken JSON", rawFile('{"x":'), "json", "is not valid JSON"],
  ["text behind the JSON", rawFile("{}{}"), "json", "is not valid JSON"],
  ["a string without end", rawFile('{"x'), "json", "is not valid JSON"],
  ["a bad escape in a key", rawFile('{"\\x":1}'), "json", "is not valid JSON"],
  [
    "a tensor twice",
    rawFile(`{"x":${JSON.stringify(u8([1], 0, 1))},"x":${JSON.stringify(u8([1], 0, 1))}}`, 1),
    "json",
    '"x" twice',
  ],
  ["a tensor twice, once with an escape", rawFile(`{"x":1, "\\u0078" :2}`), "json", '"x" twice'],
  ["metadata twice", rawFile('{"__metadata__":{},"__metadata__":{}}'), "json", '"__metadata__" twice'],
  [
    "a field twice",
    rawFile('{"x":{"dtype":"U8","dtype":"U8","shape":[],"data_offsets":[0,1]}}', 1),
    "json",
    '"dtype" twice',
  ],
  ["deep nesting", rawFile(nested), "json", "nested deeper than 4"],
  [
    "a long list",
    rawFile(
      tensor(
        u8(
          Array.from({ length: 257 }, () => 1),
          0,
          1,
        ),
      ),
      1,
    ),
    "json",
    "more than 256 values",
  ],
  [
    "too many dimensions",
    rawFile(
      tensor(
        u8(
          Array.from({ length: 65 }, () => 1),
          0,
          1,
        ),
      ),
      1,
    ),
    "tensor",
    '"x" has 65 dimensions',
  ],
  ["a tensor that is no object", rawFile(tensor(null)), "tensor", '"x" is null'],
  [
    "a dtype that does not exist",
    rawFile(tensor({ ...u8([1], 0, 1), dtype: "Q4" }), 1),
    "tensor",
    '"x" has the dtype "Q4"',
  ],
  [
    "a dtype from the prototype",
    rawFile(tensor({ ...u8([1], 0, 1), dtype: "constructor" }), 1),
    "tensor",
    '"constructor"',
  ],
  ["no dtype", rawFile(tensor({ shape: [1], data_offsets: [0, 1] }), 1), "tensor", "dtype missing"],
  ["a shape that is no list", rawFile(tensor(u8("1", 0, 1)), 1), "tensor", 'the shape "1"'],
  ["no shape", rawFile(tensor(u8(undefined, 0, 1)), 1), "tensor", "the shape missing"],
  ["a negative dimension", rawFile(tensor(u8([-1, -1], 0, 1)), 1), "tensor", "the shape [-1,-1]"],
  ["a fractional dimension", rawFile(tensor(u8([0.5, 2], 0, 1)), 1), "tensor", "the shape [0.5,2]"],
  ["a dimension that is text", rawFile(tensor(u8(["1"], 0, 1)), 1), "tensor", 'the shape ["1"]'],
  [
    "a dimension above 2^53",
    rawFile('{"x":{"dtype":"U8","shape":[9007199254740993],"data_offsets":[0,1]}}', 1),
    "tensor",
    "list of whole numbers",
  ],
  ["a product above 2^53", rawFile(tensor(u8([2 ** 30, 2 ** 30], 0, 1)), 1), "tensor", "which is too large"],
  [
    "a product above 2^53 times nothing",
    rawFile(tensor(u8([2 ** 30, 2 ** 30, 0], 0, 0))),
    "tensor",
    "which is too large",
  ],
  [
    "half a byte",
    rawFile(tensor({ dtype: "F4", shape: [3], data_offsets: [0, 2] }), 2),
    "tensor",
    "does not fill whole bytes",
  ],
  [
    "three quarters of a byte",
    rawFile(tensor({ dtype: "F6_E2M3", shape: [1], data_offsets: [0, 1] }), 1),
    "tensor",
    "does not fill whole bytes",
  ],
  ["no data_offsets", rawFile(tensor({ dtype: "U8", shape: [1] }), 1), "tensor", "data_offsets missing"],
  [
    "one data_offset",
    rawFile(tensor({ dtype: "U8", shape: [1], data_offsets: [0] }), 1),
    "tensor",
    "data_offsets [0]",
  ],
  ["a negative offset", rawFile(tensor(u8([1], -1, 0))), "tensor", "data_offsets [-1,0]"],
  [
    "a negative zero",
    rawFile('{"x":{"dtype":"U8","shape":[1],"data_offsets":[-0,1]}}', 1),
    "tensor",
    "two whole numbers",
  ],
  ["a fractional offset", rawFile(tensor(u8([1], 0.5, 1.5)), 1), "tensor", "data_offsets [0.5,1.5]"],
  ["an offset that is text", rawFile(tensor(u8([1], "0", "1")), 1), "tensor", 'data_offsets ["0","1"]'],
  ["offsets that run backwards", rawFile(tensor(u8([1], 1, 0)), 1), "tensor", "expected 1 bytes"],
  [
    "a length that is not that of the shape",
    rawFile(tensor(u8([3], 0, 2)), 2),
    "tensor",
    "expected 3 bytes for U8 and shape [3]",
  ],
  [
    "a tensor beyond the file",
    rawFile({ a: u8([1], 0, 1), x: u8([5], 1, 6) }, 5),
    "offsets",
    'tensor "x" ends at byte',
  ],
  [
    "two tensors on one place",
    rawFile({ a: u8([1], 0, 1), b: u8([1], 0, 1) }, 1),
    "offsets",
    'tensor "b" overlaps tensor "a"',
  ],
  [
    "two tensors that overlap",
    rawFile({ a: u8([2], 0, 2), b: u8([2], 1, 3) }, 3),
    "offsets",
    'tensor "b" overlaps tensor "a"',
  ],
  [
    "a hole between tensors",
    rawFile({ a: u8([1], 0, 1), b: u8([1], 3, 4) }, 4),
    "offsets",
    '2 bytes between tensor "a" and tensor "b"',
  ],
  [
    "a hole behind the header",
    rawFile({ a: u8([1], 2, 3) }, 3),
    "offsets",
    '2 bytes between the header and tensor "a"',
  ],
  ["bytes behind the last tensor", rawFile({ a: u8([1], 0, 1) }, 4), "offsets", '3 bytes behind tensor "a"'],
  ["data without tensors", rawFile("{}", 4), "offsets", "4 bytes behind the header"],
  [
    "metadata that is no object",
    rawFile({ __metadata__: ["format"] }),
    "metadata",
    '__metadata__ is ["format"]',
  ],
  ["metadata that is null", rawFile({ __metadata__: null }), "metadata", "__metadata__ is null"],
  ["metadata with a number", rawFile({ __metadata__: { format: 1 } }), "metadata", '"format" is 1'],
  [
    "much metadata",
    rawFile({ __metadata__: Object.fromEntries(Array.from({ length: 65_537 }, (_, i) => [`k${i}`, ""])) }),
    "metadata",
    "65537 entries",
  ],
  ["a long name", rawFile({ ["n".repeat(1025)]: u8([1], 0, 1) }, 1), "tensor", "longer than 1024 characters"],
  [
    "half of a surrogate pair in a name",
    rawFile(`{"\\ud800":${JSON.stringify(u8([1], 0, 1))}}`, 1),
    "tensor",
    "not well-formed Unicode",
  ],
];

describe("readHeader refuses", () => {
  test.each(REFUSED)("%s", async (_, file, code, says) => {
    const error: unknown = await read(file).then(
      () => undefined,
      (error: unknown) => error,
    );
    expect(error).toMatchObject({ name: "SafetensorsError", code: `safetensors-${code}`, exitCode: 1 });
    const { message } = error as Error;
    expect(message).toContain(says);
    expect(message).toMatch(/^memory\.safetensors: .{1,600}\.$/);
  });

  test("more tensors than any checkpoint has, before they are parsed", async () => {
    const rows = Array.from({ length: 1_048_578 }, (_, index) => `"${index.toString(36)}":0`);
    await expect(read(rawFile(`{${rows.join(",")}}`))).rejects.toThrow("more than 1048577 keys");
    const objects = `[${"{},".repeat(200)}{}]`;
    const lists = Array.from({ length: 16_000 }, (_, index) => `"${index}":${objects}`);
    await expect(read(rawFile(`{${lists.join(",")}}`))).rejects.toThrow(
      "more than 3145730 objects and lists",
    );
  });

  test("a length that a sparse or remote file cannot back, without reading it", async () => {
    const source = new MemorySource(rawFile("{}", 0, 90_000_000n));
    await expect(readHeader(source)).rejects.toThrow("claims 90000000 bytes");
    expect(source.largest).toBe(8);
  });
});
