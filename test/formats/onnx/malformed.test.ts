import { describe, expect, test } from "vitest";
import { encodeModel } from "../../../formats/onnx/codec.js";
import { OnnxError } from "../../../formats/onnx/errors.js";
import { MAX_MESSAGES, MAX_NESTING, MAX_VALUES } from "../../../formats/onnx/limits.js";
import { readOnnx } from "../../../formats/onnx/read.js";
import type { ModelProto, TensorProto } from "../../../formats/onnx/types.js";
import { MemorySource } from "../gguf/support.js";
import { bare, plainGraph, smallFile, smallModel } from "./support.js";

/** A number as protobuf writes it, made without the code under test. */
function varint(value: number | bigint): Buffer {
  const bytes: number[] = [];
  let rest = BigInt.asUintN(64, BigInt(value));
  for (; rest > 0x7fn; rest >>= 7n) bytes.push(Number(rest & 0x7fn) | 0x80);
  return Buffer.from([...bytes, Number(rest)]);
}

const tag = (id: number, wireType: number): Buffer => varint(id * 8 + wireType);
const number = (id: number, value: number | bigint): Buffer => Buffer.concat([tag(id, 0), varint(value)]);
const field = (id: number, ...parts: Uint8Array[]): Buffer => {
  const length = parts.reduce((sum, part) => sum + part.length, 0);
  return Buffer.concat([tag(id, 2), varint(length), ...parts]);
};

/** A model by hand around the bytes of a graph. */
const file = (graph: Uint8Array, ...more: Uint8Array[]): Buffer =>
  Buffer.concat([number(1, 10), field(7, graph), field(8, number(2, 21)), ...more]);

async function read(bytes: Uint8Array): Promise<unknown> {
  return (await readOnnx(new MemorySource(bytes))).model;
}

async function refused(bytes: Uint8Array): Promise<OnnxError> {
  const error: unknown = await read(bytes).then(
    () => "it was read",
    (error: unknown) => error,
  );
  expect(error).toBeInstanceOf(OnnxError);
  return error as OnnxError;
}

/** Something inside itself many times: each time with the length of what it holds in front, built from the inside. */
function nest(levels: number, ...ids: number[]): Buffer {
  // Lengths are known from the inside; pieces are put in front of each other without copying what is inside.
  const pieces: Buffer[] = [];
  let length = 0;
  for (let level = 0; level < levels; level++) {
    for (const id of ids) {
      const head = Buffer.concat([tag(id, 2), varint(length)]);
      pieces.push(head);
      length += head.length;
    }
  }
  return Buffer.concat(pieces.toReversed());
}

describe("nesting without end is refused, not followed", () => {
  test.each<[string, Buffer]>([
    ["graphs", file(nest(10_000, 6, 5, 1))],
    ["types", file(field(11, field(2, nest(10_000, 1, 4))))],
    ["types of attributes", file(field(1, field(5, field(14, nest(10_000, 1, 9)))))],
    [
      "nodes of functions",
      Buffer.concat([file(Buffer.alloc(0)), field(25, field(7, nest(10_000, 1, 6, 5)))]),
    ],
    ["training graphs", Buffer.concat([file(Buffer.alloc(0)), field(20, field(1, nest(10_000, 6, 5, 1)))])],
    ["groups that nobody knows", file(Buffer.alloc(10_000, tag(3, 3)))],
  ])("%s", async (_, bytes) => {
    expect(await refused(bytes)).toMatchObject({ code: "onnx-limit" });
    expect((await refused(bytes)).message).toContain(`nested deeper than ${MAX_NESTING}`);
  });

  test("a field that nobody knows may hold anything", async () => {
    const bytes = file(field(99, nest(10_000, 6, 5, 1)));
    expect(await read(bytes)).toMatchObject({ graph: { node: [] } });
  });
});

describe("what the schema does not know is stepped over", () => {
  test.each<[string, Buffer]>([
    ["a number", number(500, -1)],
    ["bytes", field(500, Buffer.from("abc"))],
    ["four bytes", Buffer.concat([tag(500, 5), Buffer.alloc(4)])],
    ["eight bytes", Buffer.concat([tag(500, 1), Buffer.alloc(8)])],
    ["a group", Buffer.concat([tag(500, 3), number(1, 5), tag(2, 3), tag(2, 4), tag(500, 4)])],
    ["the highest number", number(2 ** 29 - 1, 0)],
  ])("%s", async (_, unknown) => {
    const sound = await smallFile();
    expect(bare(await read(Buffer.concat([sound, unknown])))).toEqual(bare(smallModel()));
    expect(bare(await read(Buffer.concat([unknown, sound])))).toEqual(bare(smallModel()));
  });
});

test("lists of numbers are read packed and unpacked", async () => {
  const initializer = Buffer.concat([number(2, 7), field(8, Buffer.from("t"))]);
  const packed = field(5, initializer, field(1, varint(2), varint(1)), field(7, varint(3), varint(-1)));
  const unpacked = field(5, initializer, number(1, 2), number(1, 1), number(7, 3), number(7, -1));
  expect(await read(file(packed))).toEqual(await read(file(unpacked)));
  expect(await read(file(packed))).toMatchObject({
    graph: { initializer: [{ dims: [2, 1], int64Data: [3, -1] }] },
  });
});

describe("damage is refused", () => {
  const overlong = Buffer.from([0x80, 0x80, 0x80, 0x80, 0x80, 0x00]);
  test.each<[string, Buffer, string]>([
    ["nothing at all", Buffer.alloc(0), "no IR version or no graph"],
    ["a text", Buffer.from("{}"), "4 bytes are announced, 0 are left"],
    ["a graph alone", field(7, Buffer.alloc(0)), "no IR version or no graph"],
    ["no graph", Buffer.concat([number(1, 10), field(8, number(2, 21))]), "no IR version or no graph"],
    ["the field 0", file(Buffer.from([0x00, 0x01])), "number 0"],
    ["the wire type 6", file(tag(99, 6)), "wire type 6"],
    ["the wire type 7", file(tag(1, 7)), "wire type 7"],
    ["a number where a text is expected", file(number(2, 5)), "name has the wire type 0"],
    [
      "a text where a number is expected",
      file(field(5, field(2, Buffer.from("a")))),
      "dataType has the wire type 2",
    ],
    ["a group for a message", file(Buffer.concat([tag(1, 3), tag(1, 4)])), "node has the wire type 3"],
    ["an end of no group", file(tag(99, 4)), "wire type 4"],
    ["a group that another ends", file(Buffer.concat([tag(98, 3), tag(99, 4)])), "wire type 4"],
    ["a group without an end", file(tag(98, 3)), "a group has no end"],
    [
      "a group that ends outside of its message",
      file(field(1, tag(98, 3)), tag(98, 4)),
      "a group has no end",
    ],
    [
      "a message longer than the one around it",
      file(Buffer.concat([tag(1, 2), varint(5)])),
      "5 bytes are announced, 0 are left",
    ],
    [
      "a text longer than its message",
      file(field(1, tag(4, 2), varint(9), Buffer.from("a"))),
      "9 bytes are announced, 1 are left",
    ],
    ["a length of 2^31", file(Buffer.concat([tag(1, 2), varint(2 ** 31)])), "a length is 2147483648"],
    ["a length of 2^35", file(Buffer.concat([tag(1, 2), varint(2 ** 35)])), "longer than 32 bits"],
    ["a length of 2^64 - 1", file(Buffer.concat([tag(1, 2), varint(-1)])), "longer than 32 bits"],
    ["a tag of six bytes", file(Buffer.concat([overlong, overlong])), "longer than 32 bits"],
    [
      "a tag that is cut off",
      Buffer.concat([file(Buffer.alloc(0)), Buffer.from([0x80])]),
      "ends inside a tag",
    ],
    [
      "a number of eleven bytes",
      file(Buffer.concat([tag(99, 0), Buffer.alloc(11, 0x80)])),
      "longer than 64 bits",
    ],
    ["a number that is cut off", file(tag(99, 0)), "ends inside a number"],
    [
      "three bytes for a float",
      file(field(5, Buffer.concat([tag(4, 2), varint(3), Buffer.alloc(3)]))),
      "floatData is not a whole number",
    ],
    [
      "a packed number that is cut off",
      file(field(5, field(7, Buffer.from([0x80])))),
      "ends inside a number",
    ],
    ["a text that is not UTF-8", file(field(2, Buffer.from([0xc0, 0x80]))), "name is not valid UTF-8"],
    ["a dimension below 0", file(field(5, number(1, -1))), "initializer[0].dims[0] is -1"],
    ["a dimension of 2^53", file(field(5, number(1, 2 ** 53))), "is 9007199254740992"],
    [
      "a symbolic dimension below 0",
      file(field(11, field(2, field(1, field(2, field(1, number(1, -1))))))),
      "dimValue is -1",
    ],
    ["an opset below 0", Buffer.concat([number(1, 10), field(7), field(8, number(2, -1))]), "version is -1"],
  ])("%s", async (_, bytes, says) => {
    const error = await refused(bytes);
    expect(error.message).toContain(says);
    expect(error.message).toMatch(/^memory\.gguf: /);
  });

  test("more messages or values than anybody needs, before they are made", async () => {
    // Two bytes each: what would be some hundred MB of heap.
    const empties = Buffer.alloc(2 * (MAX_MESSAGES + 1));
    for (let at = 0; at < empties.length; at += 2) empties[at] = 0x0a;
    expect((await refused(file(empties))).message).toContain(`more than ${MAX_MESSAGES} messages`);
    const values = field(5, field(5, Buffer.alloc(MAX_VALUES + 1)));
    expect((await refused(file(values))).message).toContain(`more than ${MAX_VALUES} values`);
    const floats = field(5, field(4, Buffer.alloc(4 * (MAX_VALUES + 1))));
    expect((await refused(file(floats))).message).toContain(`more than ${MAX_VALUES} values`);
  });

  test("a text that is too long", async () => {
    expect((await refused(file(field(2, Buffer.alloc(2 ** 24 + 1))))).message).toContain("16777217 bytes");
  });

  test("a file that is too large, before it is read", async () => {
    const large = new MemorySource(new Uint8Array(0), 2 ** 29 + 1);
    await expect(readOnnx(large)).rejects.toMatchObject({ code: "onnx-limit" });
    const larger = new MemorySource(new Uint8Array(0), 2 ** 31);
    await expect(readOnnx(larger, { maxGraphBytes: 2 ** 40 })).rejects.toThrow("at most 2147483647");
    await expect(readOnnx(new MemorySource(await smallFile()), { maxGraphBytes: 9 })).rejects.toThrow(
      "at most 9",
    );
    expect(large.bytesRead + larger.bytesRead).toBe(0);
  });
});

describe("versions", () => {
  const versions = (irVersion: number, ...opsetImport: ModelProto["opsetImport"]): ModelProto => ({
    ...smallModel(),
    irVersion,
    opsetImport,
  });
  test.each([21, 22, 23, 24, 25, 26])("opset %d is read", async (version) => {
    const bytes = await encodeModel(versions(13, { domain: "ai.onnx", version }));
    expect((await readOnnx(new MemorySource(bytes))).opset).toBe(version);
  });

  test.each<[ModelProto, string, string]>([
    [versions(10, { domain: "", version: 20 }), "onnx-opset", "the opset is 20, expected 21 to 26"],
    [versions(10, { domain: "", version: 27 }), "onnx-opset", "27"],
    [versions(9, { domain: "", version: 21 }), "onnx-ir", "the IR version is 9, expected 10 to 13"],
    [versions(14, { domain: "", version: 26 }), "onnx-ir", "14"],
    [versions(10), "onnx-opset", "missing"],
    [versions(10, { domain: "com.microsoft", version: 1 }), "onnx-opset", "missing"],
    [
      versions(10, { domain: "", version: 21 }, { domain: "ai.onnx", version: 22 }),
      "onnx-opset",
      "ONNX are imported twice",
    ],
    [
      versions(10, { domain: "", version: 21 }, { domain: "a", version: 1 }, { domain: "a", version: 1 }),
      "onnx-opset",
      '"a" are imported twice',
    ],
  ])("%#: not others", async (model, code, says) => {
    const error = await refused(await encodeModel(model));
    expect(error.code).toBe(code);
    expect(error.message).toContain(says);
  });
});

describe("tensors", () => {
  const only = async (tensor: Partial<TensorProto>): Promise<Buffer> => {
    const whole = { name: "t", dataType: 1, dims: [2], ...tensor };
    return Buffer.from(await encodeModel({ ...smallModel(), graph: plainGraph([], [whole]) }));
  };

  test.each<[string, Partial<TensorProto>, ArrayLike<number> & ArrayBufferView]>([
    ["floats", { floatData: [1, 2] }, Float32Array.of(1, 2)],
    ["complex floats", { dataType: 14, dims: [1], floatData: [1, 2] }, Float32Array.of(1, 2)],
    ["doubles", { dataType: 11, doubleData: [1, 2] }, Float64Array.of(1, 2)],
    ["complex doubles", { dataType: 15, dims: [], doubleData: [1, 2] }, Float64Array.of(1, 2)],
    ["int32", { dataType: 6, int32Data: [-1, 2] }, Int32Array.of(-1, 2)],
    ["int16", { dataType: 5, int32Data: [-1, 2] }, Int16Array.of(-1, 2)],
    ["int8", { dataType: 3, int32Data: [-1, 2] }, Int8Array.of(-1, 2)],
    ["booleans", { dataType: 9, int32Data: [1, 0] }, Uint8Array.of(1, 0)],
    ["half floats", { dataType: 10, int32Data: [0x3c00, 0xbc00] }, Uint16Array.of(0x3c00, 0xbc00)],
    ["brain floats", { dataType: 16, int32Data: [0x3f80, 0xbf80] }, Uint16Array.of(0x3f80, 0xbf80)],
    ["4 bits", { dataType: 22, dims: [3], int32Data: [0x21, 0x03] }, Uint8Array.of(0x21, 0x03)],
    ["2 bits", { dataType: 25, dims: [5], int32Data: [0xe4, 0x03] }, Uint8Array.of(0xe4, 0x03)],
    ["uint32", { dataType: 12, uint64Data: [1, 2 ** 32 - 1] }, Uint32Array.of(1, 2 ** 32 - 1)],
    ["nothing", { dims: [0, 5] }, new Uint8Array(0)],
    ["one raw value", { dims: [], rawData: Uint8Array.of(1, 2, 3, 4) }, Uint8Array.of(1, 2, 3, 4)],
  ])("of %s have the bytes of raw data", async (_, tensor, values) => {
    const { tensors } = await readOnnx(new MemorySource(await only(tensor)));
    const bytes = new Uint8Array(values.buffer, values.byteOffset, values.byteLength);
    expect(tensors).toMatchObject([
      { name: "t", byteLength: bytes.length, place: { kind: "inline", bytes } },
    ]);
  });

  test("of 64-bit numbers and of texts are listed", async () => {
    const list = async (tensor: Partial<TensorProto>): Promise<unknown> =>
      (await readOnnx(new MemorySource(await only(tensor)))).tensors[0]?.place;
    expect(await list({ dataType: 7, int64Data: [-1, 2] })).toEqual({
      kind: "inline",
      bytes: new Uint8Array(BigInt64Array.of(-1n, 2n).buffer),
    });
    expect(await list({ dataType: 13, uint64Data: [2n ** 64n - 1n, 2] })).toEqual({
      kind: "inline",
      bytes: new Uint8Array(BigUint64Array.of(2n ** 64n - 1n, 2n).buffer),
    });
    expect(await list({ dataType: 8, stringData: [Buffer.from("a"), Buffer.from("b")] })).toMatchObject({
      kind: "strings",
      values: [Uint8Array.of(97), Uint8Array.of(98)],
    });
  });

  const entry = (key: string, value: string): { key: string; value: string } => ({ key, value });
  const at = (...externalData: { key: string; value: string }[]): Partial<TensorProto> => ({
    dataLocation: 1,
    externalData,
  });
  test.each<[string, Partial<TensorProto>, string]>([
    ["the type 0", { dataType: 0, rawData: new Uint8Array(8) }, "has the type 0"],
    ["the type 27", { dataType: 27 }, "has the type 27"],
    ["too few raw bytes", { rawData: new Uint8Array(7) }, "7 bytes, expected 8"],
    ["too many raw bytes", { rawData: new Uint8Array(9) }, "9 bytes, expected 8"],
    ["no bytes", {}, "0 entries in floatData, expected 2"],
    ["too few values", { floatData: [1] }, "1 entries in floatData, expected 2"],
    ["values in the wrong list", { int64Data: [1, 2] }, "in int64Data, expected floatData"],
    ["values twice", { floatData: [1, 2], rawData: new Uint8Array(8) }, "floatData and rawData"],
    [
      "values here and there",
      { ...at(entry("location", "d")), rawData: new Uint8Array(8) },
      "rawData and externalData",
    ],
    ["raw texts", { dataType: 8, rawData: new Uint8Array(8) }, "texts as raw data"],
    ["texts in a file", { ...at(entry("location", "d")), dataType: 8 }, "texts in a data file"],
    ["a segment", { segment: { begin: 0, end: 1 }, floatData: [1, 2] }, "segment"],
    ["another place", { dataLocation: 2, floatData: [1, 2] }, "data location 2"],
    ["many dimensions", { dims: Array.from({ length: 65 }, () => 1) }, "65 dimensions"],
    ["a product above 2^53", { dims: [2 ** 30, 2 ** 30] }, "more than 2^53 values"],
    ["a product above 2^53 times 0", { dims: [2 ** 30, 0, 2 ** 30] }, "more than 2^53 values"],
    ["more bytes than can be", { dims: [2 ** 49] }, "larger than 2^50"],
    ["no name", { name: "", floatData: [1, 2] }, "has no name"],
    ["no file", at(), "names no file"],
    ["two files", at(entry("location", "a"), entry("location", "b")), "gives location twice"],
    ["an offset below 0", at(entry("location", "a"), entry("offset", "-1")), 'offset "-1"'],
    ["an offset in hex", at(entry("location", "a"), entry("offset", "0x10")), 'offset "0x10"'],
    ["an empty offset", at(entry("location", "a"), entry("offset", "")), 'offset ""'],
    [
      "an offset above 2^53",
      at(entry("location", "a"), entry("offset", "9007199254740993")),
      "expected a whole number",
    ],
    [
      "a huge length",
      at(entry("location", "a"), entry("length", "1".repeat(400))),
      "expected a whole number",
    ],
    ["another length", at(entry("location", "a"), entry("length", "9")), '9 bytes in "a", expected 8'],
  ])("with %s are refused", async (_, tensor, says) => {
    expect((await refused(await only(tensor))).message).toContain(says);
  });

  test.each([
    "/etc/passwd",
    "../x",
    "a/../../x",
    "a/..",
    "..",
    "",
    ".",
    "a/",
    "a/.",
    "a\\b",
    "..\\x",
    "C:x",
    "C:\\x",
    "file:///x",
    "a\0b",
    "a\nb",
    "//host/x",
  ])("in %j are refused", async (location) => {
    const error = await refused(await only(at(entry("location", location))));
    expect(error).toMatchObject({ code: "onnx-location" });
  });

  test("in a path that no system knows are refused", async () => {
    const error = await refused(await only(at(entry("location", "x".repeat(4097)))));
    expect(error).toMatchObject({ code: "onnx-location" });
    expect(error.message.length).toBeLessThan(500);
  });

  test.each(["a", "a/b", "./a", "a..b", "...", "ünï.onnx_data"])("in %j are taken", async (location) => {
    const { tensors } = await readOnnx(
      new MemorySource(
        await only(at(entry("location", location), entry("checksum", "00"), entry("new", "x"))),
      ),
    );
    expect(tensors[0]?.place).toEqual({ kind: "external", location, offset: 0, length: 8 });
  });

  test("of one name twice are refused", async () => {
    const tensor = { name: "t", dataType: 1, dims: [1], floatData: [1] };
    const bytes = await encodeModel({ ...smallModel(), graph: plainGraph([], [tensor, tensor]) });
    expect((await refused(bytes)).message).toContain('initializer[1] has the name "t" of another one');
  });
});
