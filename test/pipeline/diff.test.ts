import { readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { describe, expect, it } from "vitest";
import { openGguf } from "../../formats/gguf/read.js";
import type { GgufMetadata } from "../../formats/gguf/types.js";
import { gguf } from "../../formats/gguf/values.js";
import type { BlockTypeName } from "../../src/blocks/types.js";
import { diffMetadata } from "../../src/pipeline/diff-metadata.js";
import { diff, type DiffReport, type TensorDifference } from "../../src/pipeline/diff.js";
import { type Progress, silent } from "../../src/pipeline/progress.js";
import { openSource } from "../../src/pipeline/source.js";
import { storedTensors, TILE_VALUES } from "../../src/pipeline/stored-tensors.js";
import { makeCheckpoint } from "../support/checkpoints.js";
import { convertFixture, nanoCheckpoint, scratchFolder } from "../support/convert.js";
import { type GgmlQuants, loadGgmlQuants } from "../support/ggml-quants.js";
import { writeGguf } from "../support/write-gguf.js";

const ggml = loadGgmlQuants();
const never = new AbortController().signal;
const compare = (a: string, b: string): Promise<DiffReport> => diff(a, b, silent, never);

function find(report: DiffReport, name: string): TensorDifference {
  const found = report.tensors.find((tensor) => tensor.name === name);
  if (found === undefined) throw new Error(`${name} is not in the report`);
  return found;
}

function inState(report: DiffReport, state: TensorDifference["state"]): string[] {
  return report.tensors.filter((tensor) => tensor.state === state).map(({ name }) => name);
}

/** A copy of a GGUF with a tensor's bytes changed. */
async function changed(path: string, name: string, edit: (data: Buffer) => void): Promise<string> {
  const bytes = readFileSync(path);
  const tensor = (await openGguf(path)).tensors.find((each) => each.name === name);
  if (tensor === undefined) throw new Error(`${name} is not in ${path}`);
  edit(bytes.subarray(tensor.offset, tensor.offset + tensor.byteLength));
  const copy = join(scratchFolder(), "changed.gguf");
  writeFileSync(copy, bytes);
  return copy;
}

/** All values of a model as ggml decodes them. */
async function valuesOf(path: string, ggml: GgmlQuants): Promise<Map<string, Float32Array>> {
  const values = new Map<string, Float32Array>();
  const files = new Map<string, Buffer>();
  for (const { name, type, bytes, path: file, offset } of storedTensors(await openSource(path), "gguf")) {
    const whole = files.get(file) ?? readFileSync(file);
    files.set(file, whole);
    const copy = new Uint8Array(whole.subarray(offset, offset + bytes));
    if (type === "F32") values.set(name, new Float32Array(copy.buffer));
    else if (type === "F16" || type === "BF16")
      values.set(name, new Float32Array(ggml.widen(type, new Uint16Array(copy.buffer)).buffer));
    else values.set(name, ggml.dequantize(type as BlockTypeName, copy));
  }
  return values;
}

/** The error by its definition. */
function errorOf(pairs: readonly (readonly [Float32Array, Float32Array])[]): number {
  let difference = 0;
  let energy = 0;
  for (const [a, b] of pairs) {
    for (let index = 0; index < a.length; index++) {
      const value = a[index] ?? NaN;
      difference += (value - (b[index] ?? NaN)) ** 2;
      energy += value ** 2;
    }
  }
  return Math.sqrt(difference / energy);
}

describe("diff", () => {
  it.each(["Q4_0", "Q8_0", "F16"])("tells the error of %s as ggml's values give it", async (type) => {
    if (ggml === undefined) return;
    const path = await convertFixture(type);
    const report = await compare(nanoCheckpoint, path);
    const [a, b] = [await valuesOf(nanoCheckpoint, ggml), await valuesOf(path, ggml)];
    const matrices: [Float32Array, Float32Array][] = [];
    for (const tensor of report.tensors) {
      const pair = [a.get(tensor.name), b.get(tensor.name)] as const;
      const [left, right] = pair;
      if (left === undefined || right === undefined) continue;
      const expected = errorOf([[left, right]]);
      expect(tensor.relativeError).toBeCloseTo(expected, 12);
      expect(tensor.state).toMatch(expected > 0 ? /^different$/ : /^(?:equal|identical)$/);
      if ((tensor.a?.ne.length ?? 0) > 1) matrices.push([left, right]);
    }
    expect(matrices).toHaveLength(35);
    expect(report.total.relativeError).toBeCloseTo(errorOf(matrices), 12);
    expect(report.total.relativeError).toBeGreaterThan(0);
  });

  it("names types and bytes of both, in the order of the first", async () => {
    const path = await convertFixture("Q4_0");
    const report = await compare(path, nanoCheckpoint);
    expect(report).toMatchObject({
      a: { path, kind: "gguf", tensors: 68, towersLeftOut: 0 },
      b: { path: nanoCheckpoint, kind: "checkpoint", tensors: 73, towersLeftOut: 217 },
      metadata: null,
    });
    expect(find(report, "blk.0.attn_q.weight")).toMatchObject({
      a: { type: "Q4_0", ne: [256, 256], bytes: 36_864 },
      b: { type: "BF16", ne: [256, 256], bytes: 131_072 },
    });
    const order = (await openGguf(path)).tensors.map(({ name }) => name);
    expect(report.tensors.slice(0, order.length).map(({ name }) => name)).toEqual(order);
    expect(inState(report, "onlyA")).toEqual(["rope_freqs.weight"]);
    expect(inState(report, "onlyB")).toHaveLength(6);
    expect(report.total.compared).toBe(67);
  });

  it("finds a file identical to itself, and to its parts", async () => {
    const whole = await convertFixture("Q8_0");
    const parts = await convertFixture("Q8_0", { splitMaxBytes: 1024 ** 2 });
    expect(parts).toMatch(/-00001-of-0000\d\.gguf$/);
    for (const other of [whole, parts]) {
      const { total, metadata } = await compare(whole, other);
      expect(total).toMatchObject({
        compared: 68,
        relativeError: 0,
        states: { identical: 68, different: 0 },
      });
      expect(metadata).toEqual([]);
    }
  });

  it("finds a checkpoint identical to itself, with vision and audio", async () => {
    const { total, a } = await compare(nanoCheckpoint, nanoCheckpoint);
    expect(a).toMatchObject({ tensors: 290, towersLeftOut: 0 });
    expect(total.states.identical).toBe(290);
  });

  it("finds wider types equal", async () => {
    const { total } = await compare(await convertFixture("BF16"), await convertFixture("F32"));
    expect(total).toMatchObject({ relativeError: 0, states: { different: 0 } });
    expect(total.states.equal).toBeGreaterThan(30);
  });

  it("finds one byte, and weighs it with the energy of all that is identical", async () => {
    const name = "blk.1.ffn_up.weight";
    const path = await convertFixture("Q8_0");
    const other = await changed(path, name, (data) => data.writeInt8(data.readInt8(5000) ^ 1, 5000));
    const report = await compare(path, other);
    expect(inState(report, "different")).toEqual([name]);
    expect(report.total.states.identical).toBe(67);
    if (ggml === undefined) return;
    const [a, b] = [await valuesOf(path, ggml), await valuesOf(other, ggml)];
    const matrices = report.tensors.filter((tensor) => (tensor.a?.ne.length ?? 0) > 1);
    const pairs = matrices.map(({ name }) => [a.get(name)!, b.get(name)!] as const);
    expect(find(report, name).relativeError).toBeCloseTo(errorOf([[a.get(name)!, b.get(name)!]]), 12);
    expect(report.total.relativeError).toBeCloseTo(errorOf(pairs), 12);
  });

  it("says which keys and values only one of them keeps", async () => {
    const all = await convertFixture("BF16", { keepUnusedKv: true });
    const used = await convertFixture("BF16");
    const names = [2, 3].flatMap((layer) =>
      ["k", "k_norm", "v"].map((part) => `blk.${layer}.attn_${part}.weight`),
    );
    const more = await compare(all, used);
    expect(inState(more, "onlyA").toSorted()).toEqual(names.toSorted());
    expect(find(more, "blk.2.attn_k.weight")).toMatchObject({ b: null, relativeError: null });
    expect(inState(await compare(used, all), "onlyB").toSorted()).toEqual(names.toSorted());
  });

  it("says that shapes differ, and compares the rest", async () => {
    const narrow = await makeCheckpoint(join(scratchFolder(), "narrow"), { kind: "dense" });
    const wide = await makeCheckpoint(join(scratchFolder(), "wide"), { kind: "dense", hidden: 512 });
    const report = await compare(narrow.folder, wide.folder);
    expect(find(report, "token_embd.weight")).toMatchObject({
      state: "otherShape",
      relativeError: null,
      a: { ne: [256, 1024] },
      b: { ne: [512, 1024] },
    });
    expect(find(report, "blk.0.attn_q_norm.weight").state).not.toBe("otherShape");
  });

  it("has no error to tell where a value is not finite, and leaves that tensor out of the total", async () => {
    const path = await convertFixture("Q8_0");
    const nan = await changed(path, "blk.1.ffn_up.weight", (data) => data.writeUInt16LE(0x7e00, 34 * 7));
    for (const [a, b] of [[path, nan] as const, [nan, path] as const]) {
      const report = await compare(a, b);
      expect(inState(report, "notFinite")).toEqual(["blk.1.ffn_up.weight"]);
      expect(find(report, "blk.1.ffn_up.weight").relativeError).toBeNull();
      expect(report.total.relativeError).toBe(0);
    }
  });

  it("compares tensors of several tiles, and rows of any width, to the last value", async () => {
    const values = new Float32Array(2 * TILE_VALUES + 3 * 257).map((_, index) => Math.sin(index));
    const bytes = (of: Float32Array): Uint8Array => new Uint8Array(of.buffer);
    const one = { name: "one", type: "F32", ne: [values.length], data: bytes(values) };
    const last = values.slice();
    last[last.length - 1] = 100;
    const halves = new Uint8Array(values.length * 2);
    const report = await compare(await writeGguf([one]), await writeGguf([{ ...one, data: bytes(last) }]));
    expect(find(report, "one").relativeError).toBeCloseTo(errorOf([[values, last]]), 12);
    const zeros = await writeGguf([{ ...one, type: "F16", data: halves }]);
    expect(find(await compare(await writeGguf([one]), zeros), "one").relativeError).toBe(1);
    expect(find(await compare(zeros, await writeGguf([one])), "one")).toMatchObject({
      state: "different",
      relativeError: null,
    });
  });

  it("does not compare what holds no weights, unless the bytes are the same", async () => {
    const data = new Uint8Array(64).map((_, index) => index);
    const a = await writeGguf([{ name: "ids", type: "I32", ne: [16], data }]);
    const b = await writeGguf([{ name: "ids", type: "I32", ne: [16], data: data.toReversed() }]);
    expect(find(await compare(a, b), "ids")).toMatchObject({ state: "notCompared", relativeError: null });
    expect(find(await compare(a, a), "ids")).toMatchObject({ state: "identical", relativeError: 0 });
  });

  it("counts bytes up to the end, and stops when it is told to", async () => {
    const [a, b] = [await convertFixture("Q8_0"), await convertFixture("Q4_0")];
    const seen: Progress[] = [];
    await diff(a, b, { ...silent, progress: (each) => void seen.push(each) }, never);
    const steps = seen.map(({ done }) => done);
    expect(seen.at(-1)?.done).toBe(seen.at(-1)?.total);
    expect(steps).toEqual(steps.toSorted((left, right) => left - right));

    const abort = new AbortController();
    const reason = new Error("enough");
    const stopping = diff(a, b, { ...silent, progress: () => abort.abort(reason) }, abort.signal);
    await expect(stopping).rejects.toBe(reason);
  });
});

describe("diff of metadata", () => {
  it("lists keys that differ, of the fixture the type of the file only", async () => {
    const { metadata } = await compare(await convertFixture("Q8_0"), await convertFixture("Q4_0"));
    expect(metadata).toEqual([
      { key: "general.file_type", a: { type: "u32", value: 7 }, b: { type: "u32", value: 2 } },
    ]);
  });

  it("lists keys that one of them lacks, and values of another type", () => {
    const a: GgufMetadata = new Map([["x", gguf.u32(1)] as const, ["same", gguf.u32(5)] as const]);
    const b: GgufMetadata = new Map([["same", gguf.i32(5)] as const, ["y", gguf.u32(2)] as const]);
    expect(diffMetadata(a, b)).toEqual([
      { key: "x", a: { type: "u32", value: 1 }, b: null },
      { key: "same", a: { type: "u32", value: 5 }, b: { type: "i32", value: 5 } },
      { key: "y", a: null, b: { type: "u32", value: 2 } },
    ]);
  });

  it("shows long texts and lists where they begin to differ", () => {
    const text = "x".repeat(5000);
    const tokens = Array.from({ length: 1000 }, (_, index) => `t${index}`);
    const a: GgufMetadata = new Map([
      ["text", gguf.string(text)],
      ["tokens", gguf.array("string", tokens)],
      ["scores", gguf.array("f32", [1, NaN, 3])],
    ]);
    const b: GgufMetadata = new Map([
      ["text", gguf.string(`${text.slice(0, 4000)}y${text.slice(4001)}`)],
      ["tokens", gguf.array("string", tokens.with(700, "other"))],
      ["scores", gguf.array("f32", [1, NaN, 3, 4])],
    ]);
    expect(diffMetadata(a, a)).toEqual([]);
    const [texts, lists, scores] = diffMetadata(a, b);
    expect(texts?.b).toMatchObject({ type: "string", length: 5000, from: 3984 });
    expect(texts?.b).toMatchObject({ value: `${"x".repeat(16)}y${"x".repeat(63)}` });
    expect(lists?.a).toEqual({ type: "string[]", length: 1000, from: 700, value: tokens.slice(700, 708) });
    expect(lists?.b).toMatchObject({
      value: ["other", "t701", "t702", "t703", "t704", "t705", "t706", "t707"],
    });
    expect(scores).toEqual({
      key: "scores",
      a: { type: "f32[]", length: 3, from: 0, value: [1, "NaN", 3] },
      b: { type: "f32[]", length: 4, from: 0, value: [1, "NaN", 3, 4] },
    });
  });
});
