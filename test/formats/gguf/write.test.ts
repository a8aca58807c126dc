import { mkdirSync, readdirSync, readFileSync, rmdirSync, rmSync, writeFileSync } from "node:fs";
import { open, readFile } from "node:fs/promises";
import { join } from "node:path";
import {
  gguf as readWithHub,
  GGMLQuantizationType,
  GGUFValueType,
  serializeGgufMetadata,
} from "@huggingface/gguf";
import type { GGUFTypedMetadata } from "@huggingface/gguf";
import * as fc from "fast-check";
import { describe, expect, onTestFinished, test, vi } from "vitest";
import { GgufError } from "../../../formats/gguf/errors.js";
import { openGguf, readGguf } from "../../../formats/gguf/read.js";
import { TENSOR_TYPES, tensorType } from "../../../formats/gguf/tensor-types.js";
import { GGUF_VALUE_TYPES, type GgufValue } from "../../../formats/gguf/types.js";
import { gguf } from "../../../formats/gguf/values.js";
import { createGguf, partialPath, partNames, planGguf, reopenGguf } from "../../../formats/gguf/write.js";
import type { GgufPlan } from "../../../formats/gguf/plan.js";
import { OutputError } from "../../../src/base/atomic-file.js";
import { hasGgml, readWithGgml } from "../../support/ggml.js";
import {
  anyMetadata,
  anyTensors,
  MemorySource,
  plainMetadata,
  plainValue,
  strings,
  temporaryFolder,
} from "./support.js";

const anyAlignment = fc.constantFrom(undefined, 8, 16, 32, 64, 256, 4096);

/** A plan with one value of every type, one list of every type and one tensor of every type. */
function everything(): GgufPlan {
  const numbers = ["u8", "i8", "u16", "i16", "u32", "i32", "f32", "f64"] as const;
  return {
    metadata: [
      ["general.architecture", gguf.string("gemma4")],
      ...numbers.map((type): [string, GgufValue] => [`one.${type}`, { type, value: 7 }]),
      ["one.u64", gguf.u64(2n ** 64n - 1n)],
      ["one.i64", gguf.i64(-(2n ** 63n))],
      ["one.bool", gguf.bool(true)],
      ["one.string", gguf.string("Grüße, 世界 \u{1F48E}")],
      ...numbers.map((type): [string, GgufValue] => [`many.${type}`, gguf.array(type, [1, 2, 3])]),
      ["many.u64", gguf.array("u64", [0n, 2n ** 64n - 1n])],
      ["many.i64", gguf.array("i64", [-1n])],
      ["many.bool", gguf.array("bool", [true, false])],
      ["many.string", gguf.array("string", ["<pad>", "", "▁the", "\uFEFF"])],
      ["many.none", gguf.array("string", [])],
    ],
    tensors: TENSOR_TYPES.map(({ name, blockValues }, index) => ({
      name: `blk.${index}.weight`,
      type: name,
      ne: [blockValues * 2, 3],
    })),
  };
}

/** Writes a plan with data that can be told apart: byte i of tensor t is (31·t + i) mod 256. */
async function write(plan: GgufPlan, path: string): Promise<string[]> {
  const layout = planGguf(plan);
  const output = await createGguf(path, layout);
  for (const [index, tensor] of [...layout.tensors.entries()].toReversed()) {
    await output.writeTensorRange(tensor, 0, tensorData(index, tensor.byteLength));
  }
  await output.commit();
  return output.parts.map((part) => part.path);
}

function tensorData(index: number, length: number): Uint8Array {
  return Uint8Array.from({ length }, (_, i) => 31 * index + i);
}

/** JSON, bigints as their digits. */
function comparable(value: unknown): string {
  return JSON.stringify(value, (_, v: unknown) => (typeof v === "bigint" ? `${v}n` : v));
}

describe("what is written", () => {
  test("is read back the same: values of every type, any alignment", async () => {
    await fc.assert(
      fc.asyncProperty(anyMetadata, anyTensors, anyAlignment, async (metadata, tensors, alignment) => {
        const layout = planGguf({ metadata, tensors, ...(alignment ? { alignment } : {}) });
        const [part] = layout.parts;
        expect(layout.parts).toHaveLength(1);
        const file = await readGguf(new MemorySource(part!.header, part!.size));
        const added = alignment && alignment !== 32 ? [["general.alignment", gguf.u32(alignment)]] : [];
        expect(plainMetadata(file.metadata)).toEqual([...(plainMetadata(metadata) as unknown[]), ...added]);
        expect(file.tensors).toEqual(layout.tensors);
        expect(file.alignment).toBe(alignment ?? 32);
        expect(layout.tensors.map(({ name, type, ne }) => ({ name, type, ne }))).toEqual(tensors);
        expect(layout.size).toBe(part!.size);
        expect(part!.size % layout.alignment).toBe(0);
      }),
      { seed: 2, numRuns: 100 },
    );
  });

  test.skipIf(!hasGgml)("is byte for byte the header that llama.cpp makes of it", async () => {
    const folder = temporaryFolder();
    await fc.assert(
      fc.asyncProperty(anyMetadata, anyTensors, anyAlignment, async (metadata, tensors, alignment) => {
        const { parts } = planGguf({ metadata, tensors, ...(alignment ? { alignment } : {}) });
        const path = join(folder, "header.gguf");
        writeFileSync(path, parts[0]!.header);
        const theirs = readWithGgml(path);
        expect(theirs).toBeDefined();
        expect(theirs!.header).toEqual(new Uint8Array(parts[0]!.header));
      }),
      { seed: 3, numRuns: 60 },
    );
  });

  test.skipIf(!hasGgml)("is understood by llama.cpp", async () => {
    const plan = everything();
    const [path] = await write(plan, join(temporaryFolder(), "m.gguf"));
    const theirs = readWithGgml(path!)!;
    const ours = await openGguf(path!);
    expect(theirs.version).toBe(3);
    expect(theirs.tensors.map((tensor) => ({ ...tensor, type: tensor.type.toUpperCase() }))).toEqual(
      ours.tensors.map(({ name, type, ne, offset, byteLength }) => ({
        name,
        type,
        ne: [...ne, 1, 1],
        offset: offset - theirs.dataOffset,
        byteLength,
      })),
    );
    expect(theirs.entries.map(({ key, type }) => [key, GGUF_VALUE_TYPES[type]])).toEqual(
      [...plan.metadata].map(([key, value]) => [key, value.type]),
    );
    const value = (key: string): unknown => theirs.entries.find((entry) => entry.key === key)?.value;
    expect(value("many.string")).toEqual(["<pad>", "", "▁the", "\uFEFF"]);
    expect(value("one.string")).toEqual(["Grüße, 世界 \u{1F48E}"]);
    expect(value("one.i64")).toEqual(Uint8Array.of(0, 0, 0, 0, 0, 0, 0, 0x80));
    expect(value("many.i16")).toEqual(Uint8Array.of(1, 0, 2, 0, 3, 0));
  });

  test("is understood by @huggingface/gguf", async () => {
    const plan = { ...everything(), alignment: 64 };
    const [path] = await write(plan, join(temporaryFolder(), "m.gguf"));
    const ours = await openGguf(path!);
    const theirs = await readWithHub(path!, { typedMetadata: true, allowLocalFile: true });
    const { version, tensor_count, kv_count, ...entries } = theirs.typedMetadata;
    expect([version.value, tensor_count.value, kv_count.value]).toEqual([
      3,
      BigInt(TENSOR_TYPES.length),
      BigInt(ours.metadata.size),
    ]);
    const typed = Object.entries(entries).map(([key, { type, subType, value }]) => [
      key,
      {
        type: GGUF_VALUE_TYPES[type],
        ...(subType === undefined ? {} : { of: GGUF_VALUE_TYPES[subType] }),
        value,
      },
    ]);
    // Its decoder drops a byte order mark at the front of a string.
    const unmarked = JSON.parse(comparable(plainMetadata(ours.metadata)).replaceAll("\uFEFF", "")) as unknown;
    expect(JSON.parse(comparable(typed))).toEqual(unmarked);
    expect(theirs.tensorInfos).toEqual(
      ours.tensors.map(({ name, type, ne, offset }) => ({
        name,
        dtype: tensorType(type).id,
        n_dims: ne.length,
        shape: ne.map(BigInt),
        offset: BigInt(offset) - theirs.tensorDataOffset,
      })),
    );
    // The names of types agree too, except that it has none yet for the newest.
    for (const { name, id } of TENSOR_TYPES) expect([name, undefined]).toContain(GGMLQuantizationType[id]);
    expect(TENSOR_TYPES.filter(({ id }) => GGMLQuantizationType[id] === undefined).length).toBeLessThan(4);
  });

  test("reads what @huggingface/gguf writes", async () => {
    const written = {
      version: { value: 3, type: GGUFValueType.UINT32 },
      tensor_count: { value: 0n, type: GGUFValueType.UINT64 },
      kv_count: { value: 0n, type: GGUFValueType.UINT64 },
      "general.architecture": { value: "gemma4", type: GGUFValueType.STRING },
      "general.alignment": { value: 64, type: GGUFValueType.UINT32 },
      half: { value: 0.5, type: GGUFValueType.FLOAT32 },
      large: { value: 2n ** 63n, type: GGUFValueType.UINT64 },
      yes: { value: true, type: GGUFValueType.BOOL },
      tokens: { value: ["a", "", "é"], type: GGUFValueType.ARRAY, subType: GGUFValueType.STRING },
      pattern: { value: [true, false], type: GGUFValueType.ARRAY, subType: GGUFValueType.BOOL },
      scores: { value: [-1, 0.25], type: GGUFValueType.ARRAY, subType: GGUFValueType.FLOAT32 },
    } as unknown as GGUFTypedMetadata;
    const file = await readGguf(new MemorySource(serializeGgufMetadata(written, { alignment: 64 })));
    expect(plainMetadata(file.metadata)).toEqual([
      ["general.architecture", gguf.string("gemma4")],
      ["general.alignment", gguf.u32(64)],
      ["half", gguf.f32(0.5)],
      ["large", gguf.u64(2n ** 63n)],
      ["yes", gguf.bool(true)],
      ["tokens", { type: "array", of: "string", value: ["a", "", "é"] }],
      ["pattern", { type: "array", of: "bool", value: [true, false] }],
      ["scores", { type: "array", of: "f32", value: [-1, 0.25] }],
    ]);
  });

  test("takes metadata as it was read", async () => {
    const first = planGguf({ ...everything(), alignment: 128 });
    const file = await readGguf(new MemorySource(first.parts[0]!.header, first.parts[0]!.size));
    const again = planGguf({ metadata: file.metadata, tensors: file.tensors });
    expect(again.parts[0]!.header).toEqual(first.parts[0]!.header);
  });
});

const value = (value: GgufValue): GgufPlan => ({ metadata: [["k", value]], tensors: [] });
const metadata = (...keys: string[]): GgufPlan => ({
  metadata: keys.map((key) => [key, gguf.u8(1)]),
  tensors: [],
});
const tensors = (...tensors: GgufPlan["tensors"][number][]): GgufPlan => ({ metadata: [], tensors });

describe("a plan is refused", () => {
  const tensor = { name: "t", type: "F32", ne: [8] };
  test.each<[string, GgufPlan, string]>([
    ["u8 256", value(gguf.u8(256)), "fit in u8"],
    ["i8 -129", value(gguf.i8(-129)), "fit in i8"],
    ["u16 -1", value(gguf.u16(-1)), "fit in u16"],
    ["u32 1.5", value(gguf.u32(1.5)), "1.5"],
    ["i32 NaN", value(gguf.i32(Number.NaN)), "NaN"],
    ["u64 2^64", value(gguf.u64(2n ** 64n)), "fit in u64"],
    ["i64 -2^63 - 1", value(gguf.i64(-(2n ** 63n) - 1n)), "fit in i64"],
    ["f32 1e39", value(gguf.f32(1e39)), "fit in f32"],
    ["an i16 in a list", value(gguf.array("i16", [0, 40_000])), "40000"],
    ["a hole in a list", value(gguf.array("f64", Array.from<number>({ length: 2 }))), "undefined"],
    ["half a surrogate pair", value(gguf.string("\uD83D")), "surrogate"],
    [
      "a list of strings that says more than it holds",
      value({
        type: "array",
        of: "string",
        value: { bytes: strings("a").bytes, length: 2, at: () => "", [Symbol.iterator]: () => [""].values() },
      }),
      "exactly 2",
    ],
    ["an empty key", metadata(""), "0 bytes"],
    ["a long key", metadata("k".repeat(65_536)), "65536"],
    ["a key with a NUL byte", metadata("a\0"), "NUL"],
    ["a key given twice", metadata("a", "b", "a"), '"a" is given twice'],
    ["a split key", metadata("split.count"), "split.count"],
    ["a tensor without a name", tensors({ ...tensor, name: "" }), "0 bytes"],
    ["a tensor name of 64 bytes", tensors({ ...tensor, name: "é".repeat(32) }), "64 bytes"],
    ["a tensor given twice", tensors(tensor, tensor), "twice"],
    ["an unknown type", tensors({ ...tensor, type: "Q9" }), "Q9"],
    ["a row that is no whole block", tensors({ ...tensor, type: "Q4_0" }), '"t" of type Q4_0'],
    ["five dimensions", tensors({ ...tensor, ne: [1, 1, 1, 1, 2] }), "5 dimensions"],
    ["no dimensions", tensors({ ...tensor, ne: [] }), "positive"],
    [
      "more bytes than 2^53",
      tensors({ ...tensor, ne: [2 ** 50] }, { ...tensor, name: "u", ne: [2 ** 50] }),
      "2^53",
    ],
    ["an alignment of 4", { ...tensors(), alignment: 4 }, "power of two"],
    ["an alignment of 48", { ...tensors(), alignment: 48 }, "power of two"],
    [
      "an alignment that the metadata contradicts",
      { metadata: [["general.alignment", gguf.u32(64)]], tensors: [], alignment: 32 },
      "not the u32 32",
    ],
    [
      "an alignment of another type",
      { metadata: [["general.alignment", gguf.u64(64n)]], tensors: [] },
      "not the u32 32",
    ],
    ["parts of 0 tensors", { ...tensors(tensor), split: { maxTensors: 0 } }, "at least 1"],
    ["parts of 0 bytes", { ...tensors(tensor), split: { maxBytes: 0 } }, "at least 1"],
  ])("for %s", (_, plan, says) => {
    expect(() => planGguf(plan)).toThrow(GgufError);
    expect(() => planGguf(plan)).toThrow(says);
  });
});

describe("values", () => {
  test("of typed arrays are taken as they are, views included", async () => {
    const backing = Int16Array.of(9, 1, -2, 9);
    const { parts } = planGguf({
      metadata: [["k", gguf.array("i16", backing.subarray(1, 3))]],
      tensors: [],
    });
    const { metadata } = await readGguf(new MemorySource(parts[0]!.header));
    expect(plainValue(metadata.get("k")!)).toEqual({ type: "array", of: "i16", value: [1, -2] });
  });

  test("keep infinities and NaN in floats", async () => {
    const { parts } = planGguf({
      metadata: [["k", gguf.array("f32", [Infinity, -Infinity, Number.NaN])]],
      tensors: [],
    });
    const { metadata } = await readGguf(new MemorySource(parts[0]!.header));
    expect(metadata.get("k")?.value).toEqual(Float32Array.of(Infinity, -Infinity, Number.NaN));
  });

  test("that are lists of strings already are not made anew", () => {
    const list = strings("a", "b");
    expect(gguf.array("string", list).value).toBe(list);
  });
});

describe("files in the making", () => {
  const plan: GgufPlan = {
    metadata: [["general.name", gguf.string("nano")]],
    tensors: [
      { name: "a", type: "F32", ne: [3] },
      { name: "b", type: "Q4_0", ne: [32, 5] },
      { name: "c", type: "I8", ne: [77] },
    ],
  };

  test("are written in any order, by range or by path, and padded with zeros", async () => {
    const folder = temporaryFolder();
    const path = join(folder, "m.gguf");
    const layout = planGguf(plan);
    const output = await createGguf(path, layout);
    expect(readdirSync(folder)).toEqual(["m.gguf.partial"]);
    const [a, b, c] = layout.tensors;
    await output.writeTensorRange(c!, 40, tensorData(2, 77).subarray(40));
    const worker = await open(output.parts[0]!.temporaryPath, "r+");
    await worker.write(tensorData(1, 90), 0, 90, b!.offset);
    await worker.close();
    await output.writeTensorRange(c!, 0, tensorData(2, 77).subarray(0, 40));
    await output.writeTensorRange(a!, 0, tensorData(0, 12));
    await output.commit();

    expect(readdirSync(folder)).toEqual(["m.gguf"]);
    const bytes = await readFile(path);
    expect(bytes.length).toBe(layout.size);
    const expected = Buffer.alloc(layout.size);
    expected.set(layout.parts[0]!.header);
    for (const [index, tensor] of layout.tensors.entries()) {
      expected.set(tensorData(index, tensor.byteLength), tensor.offset);
    }
    expect(bytes.equals(expected)).toBe(true);
  });

  test("refuse bytes outside a tensor", async () => {
    const layout = planGguf(plan);
    const output = await createGguf(join(temporaryFolder(), "m.gguf"), layout);
    const [a] = layout.tensors;
    await expect(output.writeTensorRange(a!, 8, new Uint8Array(5))).rejects.toThrow(RangeError);
    await expect(output.writeTensorRange(a!, -1, new Uint8Array(1))).rejects.toThrow(RangeError);
    await output.abort();
  });

  test("vanish when given up", async () => {
    const folder = temporaryFolder();
    const output = await createGguf(join(folder, "m.gguf"), planGguf({ ...plan, split: { maxTensors: 1 } }));
    expect(readdirSync(folder)).toHaveLength(3);
    await output.abort();
    expect(readdirSync(folder)).toEqual([]);
  });

  test("leave an existing file alone unless told otherwise", async () => {
    const folder = temporaryFolder();
    const path = join(folder, "m.gguf");
    const layout = planGguf({ ...plan, split: { maxTensors: 1 } });
    const [, second] = partNames(path, 3);
    writeFileSync(second!, "precious");
    await expect(createGguf(path, layout)).rejects.toThrow(OutputError);
    expect(readdirSync(folder)).toHaveLength(1);
    expect(readFileSync(second!, "utf8")).toBe("precious");
    await (await createGguf(path, layout, { overwrite: true })).commit();
    expect(readdirSync(folder).toSorted()).toEqual(partNames("m.gguf", 3).toSorted());
  });

  /** What an open file does to be flushed, for a test that lets it fail. */
  async function flushes(folder: string) {
    const probe = await open(folder, "r");
    const prototype = Object.getPrototypeOf(probe) as typeof probe;
    await probe.close();
    const spy = vi.spyOn(prototype, "sync");
    onTestFinished(() => spy.mockRestore());
    return spy;
  }

  test("appear all or not at all", async () => {
    const folder = temporaryFolder();
    const path = join(folder, "m.gguf");
    const output = await createGguf(path, planGguf({ ...plan, split: { maxTensors: 1 } }));
    const spy = await flushes(folder);
    const failure = Object.assign(new Error("disk"), { code: "EIO" });
    spy.mockResolvedValueOnce().mockRejectedValueOnce(failure);
    const second = output.parts[1]!.path;
    await expect(output.commit()).rejects.toMatchObject({
      code: "output-device",
      message: expect.stringContaining(second) as unknown,
    });
    expect(readdirSync(folder).toSorted()).toEqual(partNames("m.gguf", 3).map((name) => `${name}.partial`));
    await output.abort();
    expect(readdirSync(folder)).toEqual([]);
  });

  test.each([false, true])(
    "take back the parts that have appeared when a later one cannot, replacing or not: %s",
    async (overwrite) => {
      const folder = temporaryFolder();
      const path = join(folder, "m.gguf");
      const layout = planGguf({ ...plan, split: { maxTensors: 1 } });
      const [first, , third] = partNames(path, 3);
      if (overwrite) writeFileSync(third!, "old");
      const output = await createGguf(path, layout, { overwrite });
      // Parts appear from the last to the first; a folder in the way of the first stops its rename.
      mkdirSync(join(first!, "in-the-way"), { recursive: true });
      await expect(output.commit()).rejects.toThrow("00001-of-00003");
      expect(readdirSync(folder).toSorted()).toEqual(
        [first!, ...partNames(path, 3).map(partialPath)].map((each) => each.slice(folder.length + 1)),
      );
      await output.abort();
      expect(readdirSync(folder)).toEqual(["m-00001-of-00003.gguf"]);
    },
  );

  test("take back all when the folder cannot be flushed", async () => {
    const folder = temporaryFolder();
    const output = await createGguf(join(folder, "m.gguf"), planGguf(plan));
    const spy = await flushes(folder);
    spy.mockResolvedValueOnce().mockRejectedValueOnce(Object.assign(new Error("disk"), { code: "EIO" }));
    await expect(output.commit()).rejects.toMatchObject({ code: "output-device" });
    expect(readdirSync(folder)).toEqual(["m.gguf.partial"]);
    await output.suspend();
    expect(readdirSync(folder)).toEqual(["m.gguf.partial"]);
  });

  test("can be suspended, and reopened with what was written", async () => {
    const folder = temporaryFolder();
    const path = join(folder, "m.gguf");
    const layout = planGguf({ ...plan, split: { maxTensors: 1 } });
    const [a, b, c] = layout.tensors;
    const output = await createGguf(path, layout);
    await output.writeTensorRange(a!, 0, tensorData(0, 12));
    await output.writeTensorRange(b!, 0, tensorData(1, 50));
    await output.sync();
    await output.suspend();
    // What is suspended is no longer its own to remove.
    await output.abort();
    expect(readdirSync(folder).toSorted()).toEqual(partNames("m.gguf", 3).map((name) => `${name}.partial`));

    const again = await reopenGguf(path, layout);
    expect(again?.parts).toEqual(output.parts);
    await again!.writeTensorRange(b!, 50, tensorData(1, 90).subarray(50));
    await again!.writeTensorRange(c!, 0, tensorData(2, 77));
    await again!.commit();
    await again!.abort();
    const whole = await write({ ...plan, split: { maxTensors: 1 } }, join(folder, "n.gguf"));
    for (const [index, part] of partNames(path, 3).entries()) {
      expect(readFileSync(part).equals(readFileSync(whole[index]!))).toBe(true);
    }
    expect(readdirSync(folder)).toHaveLength(6);
  });

  test("are not reopened when one is missing or of another size, or when their names are taken", async () => {
    const folder = temporaryFolder();
    const path = join(folder, "m.gguf");
    const layout = planGguf({ ...plan, split: { maxTensors: 1 } });
    expect(await reopenGguf(path, layout)).toBeUndefined();
    const output = await createGguf(path, layout);
    await output.suspend();
    const { temporaryPath } = output.parts[1]!;
    writeFileSync(temporaryPath, "short");
    expect(await reopenGguf(path, layout)).toBeUndefined();
    rmSync(temporaryPath);
    expect(await reopenGguf(path, layout)).toBeUndefined();
    expect(readdirSync(folder)).toHaveLength(2);
    mkdirSync(temporaryPath);
    await expect(reopenGguf(path, layout)).rejects.toMatchObject({ code: "output-kind" });
    rmdirSync(temporaryPath);

    await (await createGguf(path, layout)).suspend();
    writeFileSync(partNames(path, 3)[2]!, "precious");
    await expect(reopenGguf(path, layout)).rejects.toMatchObject({ code: "output-exists" });
    await (await reopenGguf(path, layout, { overwrite: true }))!.commit();
    expect(readdirSync(folder).toSorted()).toEqual(partNames("m.gguf", 3));
  });

  test("begin empty where an earlier run left something", async () => {
    const path = join(temporaryFolder(), "m.gguf");
    const layout = planGguf(plan);
    const output = await createGguf(path, layout);
    for (const tensor of layout.tensors) {
      await output.writeTensorRange(tensor, 0, new Uint8Array(tensor.byteLength).fill(255));
    }
    await output.suspend();
    await (await createGguf(path, layout)).commit();
    const expected = Buffer.alloc(layout.size);
    expected.set(layout.parts[0]!.header);
    expect(readFileSync(path).equals(expected)).toBe(true);
  });

  test("name the file that cannot be made, and leave no other", async () => {
    const folder = temporaryFolder();
    const path = join(folder, "m.gguf");
    const layout = planGguf({ ...plan, split: { maxTensors: 1 } });
    const [, second] = partNames(path, 3);
    mkdirSync(partialPath(second!));
    await expect(createGguf(path, layout)).rejects.toMatchObject({
      code: "output-kind",
      message: expect.stringContaining(second!) as unknown,
    });
    expect(readdirSync(folder)).toHaveLength(1);
    await expect(createGguf(join(folder, "none", "m.gguf"), planGguf(plan))).rejects.toMatchObject({
      code: "output-folder",
      message: expect.stringContaining(join(folder, "none", "m.gguf")) as unknown,
    });
  });
});
