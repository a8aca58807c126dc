import { copyFile, mkdir, open, readFile, rm, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { beforeAll, describe, expect, it } from "vitest";
import { attr, externalTensor, graph, model, node, valueInfo } from "../../formats/onnx/build.js";
import { encodeModel } from "../../formats/onnx/codec.js";
import { MICROSOFT_DOMAIN } from "../../formats/onnx/versions.js";
import { onnxPaths, planExternalData } from "../../formats/onnx/write.js";
import { bfloatToFloat } from "../../src/blocks/floats.js";
import { nbitsRow, type NBitsType } from "../../src/blocks/nbits/types.js";
import { readJournal } from "../../src/quantize/journal.js";
import { findTensors } from "../../src/quantize/redo.js";
import { checkWorkRedo, isWorkDone, type RunOptions, runWork } from "../../src/quantize/run.js";
import type { Work, WorkTensor } from "../../src/quantize/work.js";
import { filesIn, scratch } from "./nano.js";

/** An optional dependency; it has no library for some systems. */
const runtime = await import("onnxruntime-node").then(
  ({ default: module }) => module,
  () => undefined,
);

const root = scratch();
const input = join(root, "table.bin");

/** A table of BF16 that is cut by its columns. */
const ROWS = 300;
const COLUMNS = 2048;
const SLICE = 256;
/** Bytes of the input before the table. */
const BEFORE = 10;

const four: NBitsType = { bits: 4, block: 32, zeroPoints: true };
const eight: NBitsType = { bits: 8, block: 32, zeroPoints: false };

const names = Array.from({ length: COLUMNS / SLICE }, (_, slice) => `slice.${slice}`);
const norm = Float32Array.from({ length: SLICE }, (_, index) => 1 + index / SLICE);

beforeAll(async () => {
  const bytes = Buffer.alloc(BEFORE + 2 * ROWS * COLUMNS);
  let state = 5;
  for (let at = BEFORE; at < bytes.length; at += 2) {
    state = (Math.imul(state, 1_664_525) + 1_013_904_223) >>> 0;
    // Sign, an exponent that keeps magnitudes between 2^-7 and 1, and a fraction.
    bytes.writeUInt16LE(((state >>> 16) & 0x807f) | ((120 + ((state >>> 29) % 7)) << 7), at);
  }
  await writeFile(input, bytes);
});

/** Tensors of the data file by name: what they are in the graph. */
function tensorsOf(type: NBitsType, name: string) {
  const { codes, scales, zeroPoints } = nbitsRow(type, SLICE);
  return [
    { name: `${name}.codes`, type: "UINT8", dims: [ROWS, codes], byteLength: ROWS * codes },
    { name: `${name}.scales`, type: "FLOAT16", dims: [ROWS, scales / 2], byteLength: ROWS * scales },
    { name: `${name}.zeros`, type: "UINT8", dims: [ROWS, zeroPoints], byteLength: ROWS * zeroPoints },
  ].slice(0, type.zeroPoints ? 3 : 2) as {
    name: string;
    type: "UINT8" | "FLOAT16" | "FLOAT";
    dims: number[];
    byteLength: number;
  }[];
}

/** The table in slices of 4 and 8 bits by turns as a graph that looks rows up, and its data file. */
async function workIn(folder: string, overrides: Partial<Work> = {}, label = ""): Promise<Work> {
  const typeOf = (slice: number) => (slice % 2 === 0 ? four : eight);
  const slices = names.map((name, slice) => tensorsOf(typeOf(slice), name));
  const all = [
    ...slices.flat(),
    { name: "norm", type: "FLOAT" as const, dims: [SLICE], byteLength: 4 * SLICE },
  ];
  const layout = planExternalData("m.onnx", all);
  const nodes = names.flatMap((name, slice) => {
    const { bits, block } = typeOf(slice);
    const attributes = { bits: attr.int(bits), block_size: attr.int(block), quantize_axis: attr.int(1) };
    const [codes = "", scales = "", ...zeros] = slices[slice]?.map((tensor) => tensor.name) ?? [];
    return [
      node("GatherBlockQuantized", {
        inputs: [codes, "ids", scales, ...zeros],
        outputs: [`${name}.halves`],
        domain: MICROSOFT_DOMAIN,
        attributes,
      }),
      node("Cast", {
        inputs: [`${name}.halves`],
        outputs: [`${name}.rows`],
        attributes: { to: attr.int(1) },
      }),
      node("Mul", { inputs: [`${name}.rows`, "norm"], outputs: [name] }),
    ];
  });
  const whole = graph(`g${label}`, nodes, {
    inputs: [valueInfo("ids", "INT64", ["n"])],
    outputs: names.map((name) => valueInfo(name, "FLOAT", ["n", SLICE])),
    initializers: all.map(({ name, type, dims }, index) =>
      externalTensor(name, type, dims, layout.tensors[index]!),
    ),
  });
  const head = await encodeModel(model(whole, { opset: 21, domains: { [MICROSOFT_DOMAIN]: 1 } }));
  const placeOf = (name: string) => {
    const { part, offset } = layout.tensors.find((tensor) => tensor.name === name)!;
    return { file: part, offset };
  };
  const stored = names.map((name, slice): WorkTensor => ({
    kind: "stored",
    name,
    input,
    inputOffset: BEFORE,
    inputRow: COLUMNS,
    inputColumn: slice * SLICE,
    source: "BF16",
    target: typeOf(slice),
    row: SLICE,
    rows: ROWS,
    method: "search",
    places: slices[slice]!.map((tensor) => placeOf(tensor.name)),
  }));
  const data = new Uint8Array(norm.buffer);
  return {
    output: join(folder, "m.onnx"),
    files: onnxPaths(join(folder, "m.onnx"), layout).map((path, part) =>
      part === 0
        ? { path, size: head.length, head }
        : { path, size: layout.files[part - 1]!.size, head: new Uint8Array(0) },
    ),
    tensors: [...stored, { kind: "generated", name: "norm", data, place: placeOf("norm") }],
    key: "slices",
    mix: "four and eight",
    importance: null,
    headDifference: async () => "another graph",
    ...overrides,
  };
}

function run(work: Work, options: Partial<RunOptions> = {}) {
  return runWork(work, { threads: 1, memoryBytes: 2 ** 26, ...options });
}

async function place(name: string): Promise<string> {
  const folder = join(root, name);
  await mkdir(folder);
  return folder;
}

const FILES = ["m.onnx", "m.onnx_data"];

let whole: Buffer[] = [];

beforeAll(async () => {
  const folder = await place("whole");
  const { paths } = await run(await workIn(folder), { threads: 2 });
  whole = await Promise.all(paths.map((path) => readFile(path)));
});

async function expectWhole(folder: string): Promise<void> {
  expect(await filesIn(folder)).toEqual(FILES);
  for (const [index, name] of FILES.entries()) {
    expect((await readFile(join(folder, name))).equals(whole[index]!)).toBe(true);
  }
}

/** Puts the files that an undisturbed run writes into a folder. */
async function copyTo(folder: string): Promise<void> {
  for (const name of FILES) await copyFile(join(root, "whole", name), join(folder, name));
}

/** Indices of the tensors that are finished before the one that a broken run fails at. */
const FINISHED = [0, 1, 2, 3, 4];

/** Starts a run that fails in the middle, at a type that no kernel reads; what it wrote stays. */
async function breakOff(work: Work): Promise<void> {
  const tensors = work.tensors.map((tensor, index) =>
    index === FINISHED.length ? { ...tensor, source: "Q8_0" as const } : tensor,
  );
  await expect(run({ ...work, tensors })).rejects.toMatchObject({ code: "worker-failed" });
  expect(await finishedIn(work)).toEqual(FINISHED);
}

async function finishedIn({ output }: Work): Promise<number[]> {
  return [...((await readJournal(output))?.finished.keys() ?? [])];
}

/** Flips a bit of a tensor's scales. */
async function damageScales({ tensors }: Work, index: number, path: string): Promise<void> {
  const tensor = tensors[index];
  const at = tensor?.kind === "stored" ? tensor.places[1]!.offset + ROWS : 0;
  const file = await open(path, "r+");
  const byte = Buffer.alloc(1);
  await file.read(byte, 0, 1, at);
  byte[0] = byte[0]! ^ 2;
  await file.write(byte, 0, 1, at);
  await file.close();
}

function again({ tensors }: Work, pattern: string) {
  return { pattern, tensors: findTensors({ tensors }, pattern, "names of slices") };
}

describe("work of two files", () => {
  it.skipIf(runtime === undefined)("gives a model that ONNX Runtime reads the table from", async () => {
    const { InferenceSession, Tensor } = runtime!;
    const session = await InferenceSession.create(join(root, "whole", "m.onnx"), { intraOpNumThreads: 1 });
    const ids = [0, 1, 149, ROWS - 1];
    const found = await session.run({
      ids: new Tensor("int64", BigInt64Array.from(ids, BigInt), [ids.length]),
    });
    await session.release();
    const bytes = await readFile(input);
    for (const [slice, name] of names.entries()) {
      // Steps of a block that spans (−1, 1), and the rounding of halves.
      const most = slice % 2 === 0 ? 2 / 15 : 2 / 255;
      const rows = found[name]!.data as Float32Array;
      expect(rows).toHaveLength(ids.length * SLICE);
      let worst = 0;
      for (const [index, row] of rows.entries()) {
        const column = index % SLICE;
        const at = ids[Math.floor(index / SLICE)]! * COLUMNS + slice * SLICE + column;
        const value = bfloatToFloat(bytes.readUInt16LE(BEFORE + 2 * at));
        worst = Math.max(worst, Math.abs(row / norm[column]! - value));
      }
      expect(worst).toBeGreaterThan(0);
      expect(worst).toBeLessThan(most);
    }
  });

  it("goes on where it was broken off, to the same bytes", async () => {
    const folder = await place("resume");
    const work = await workIn(folder);
    await breakOff(work);
    expect(await filesIn(folder)).toEqual(["m.onnx.journal", "m.onnx.partial", "m.onnx_data.partial"]);
    const read: number[] = [];
    const onProgress: RunOptions["onProgress"] = ({ bytesRead, totalBytes }) => {
      expect(totalBytes).toBe(2 * ROWS * COLUMNS);
      read.push(bytesRead);
    };
    expect(await run(work, { onProgress })).toMatchObject({
      resumed: FINISHED.length,
      damaged: 0,
      redone: 0,
    });
    expect(read.at(-1)).toBe(2 * ROWS * COLUMNS);
    await expectWhole(folder);
  });

  it("does a tensor again of which a byte of the scales is damaged", async () => {
    const folder = await place("damaged");
    const work = await workIn(folder);
    await breakOff(work);
    await damageScales(work, 3, `${work.files[1]?.path}.partial`);
    expect(await run(work)).toMatchObject({ resumed: FINISHED.length - 1, damaged: 1 });
    await expectWhole(folder);
  });

  it("loses nothing when it is stopped while it checks", async () => {
    const folder = await place("stopped");
    const work = await workIn(folder);
    await breakOff(work);
    const journal = await readFile(`${work.output}.journal`, "utf8");
    const controller = new AbortController();
    const reason = new Error("enough");
    const stopping: Work = {
      ...work,
      // Read just before the check.
      get key() {
        controller.abort(reason);
        return work.key;
      },
    };
    await expect(run(stopping, { signal: controller.signal })).rejects.toBe(reason);
    expect(await readFile(`${work.output}.journal`, "utf8")).toBe(journal);
    expect(await run(work)).toMatchObject({ resumed: FINISHED.length, damaged: 0 });
    await expectWhole(folder);
  });

  it("is not mixed up with other work", async () => {
    const folder = await place("other");
    const work = await workIn(folder);
    await breakOff(work);
    for (const [other, difference] of [
      [await workIn(folder, {}, "2"), "it has another graph"],
      [{ ...work, key: "other" }, "it has other tensors, types, importance, balance or another method"],
      [{ ...work, key: "other", mix: "eight" }, "it makes four and eight, this would make eight"],
    ] as const) {
      await expect(run(other)).rejects.toMatchObject({
        code: "journal-differs",
        exitCode: 2,
        message: `an unfinished run into ${work.output} cannot be continued: ${difference}`,
      });
    }
    expect(await run(work, { overwrite: true })).toMatchObject({ damaged: 0 });
    await expectWhole(folder);
  });

  it("is known to be done as long as nobody touches its files", async () => {
    const folder = await place("done");
    const work = await workIn(folder);
    const { paths, bytes } = await run(work, { threads: 2, keepJournal: true });
    expect(paths).toEqual(FILES.map((name) => join(folder, name)));
    expect(bytes).toBe(whole.reduce((sum, { length }) => sum + length, 0));
    expect(await filesIn(folder)).toEqual([FILES[0], "m.onnx.journal", FILES[1]]);
    expect(await isWorkDone(work)).toBe(true);
    expect(await isWorkDone(work, "slice")).toBe(false);
    expect(await isWorkDone({ ...work, key: "other" })).toBe(false);
    await rm(work.files[1]?.path ?? "");
    expect(await isWorkDone(work)).toBe(false);
  });
});

describe("tensors that are done again", () => {
  it("are taken from the source, the others from the whole files", async () => {
    const folder = await place("redo");
    const work = await workIn(folder);
    await copyTo(folder);
    for (const index of [2, 5]) await damageScales(work, index, work.files[1]!.path);
    await checkWorkRedo(work, {});
    expect(await run(work, { redo: again(work, "SLICE\\.2") })).toMatchObject({
      resumed: names.length - 1,
      redone: 1,
      damaged: 0,
    });
    // Only what was asked for was done again.
    expect((await readFile(work.files[1]!.path)).equals(whole[1]!)).toBe(false);
    expect(await run(work, { redo: again(work, "slice\\.[56]|norm") })).toMatchObject({ redone: 2 });
    await expectWhole(folder);
  });

  it("cannot be part of another model, of one with a file missing, or of nothing", async () => {
    const folder = await place("refused");
    const work = await workIn(folder);
    const redo = again(work, "slice");
    for (const check of [() => checkWorkRedo(work, {}), () => run(work, { redo })])
      await expect(check()).rejects.toMatchObject({ code: "redo-nothing", exitCode: 2 });
    await copyTo(folder);
    const other = await workIn(folder, {}, "2");
    await expect(run(other, { redo })).rejects.toMatchObject({
      code: "redo-differs",
      message: expect.stringContaining("it has another graph") as unknown,
    });
    await rm(work.files[1]!.path);
    await expect(run(work, { redo })).rejects.toMatchObject({
      code: "redo-differs",
      message: expect.stringContaining("m.onnx_data is missing") as unknown,
    });
    expect(await filesIn(folder)).toEqual(["m.onnx"]);
    expect(() => again(work, "attn")).toThrow(
      expect.objectContaining({
        code: "pattern-finds-nothing",
        advice: "Patterns are regular expressions over names of slices.",
      }),
    );
  });
});

describe("work is refused", () => {
  it("whose tensors lie outside of their files or over a head, before anything is written", async () => {
    const folder = await place("places");
    const work = await workIn(folder);
    const { size } = work.files[1]!;
    for (const place of [
      { file: 0, offset: 0 },
      { file: 1, offset: size - 4 * SLICE + 1 },
      { file: 2, offset: 0 },
    ]) {
      const tensors = work.tensors.map((tensor) =>
        tensor.kind === "generated" ? { ...tensor, place } : tensor,
      );
      await expect(run({ ...work, tensors })).rejects.toThrow(
        `tensor norm has ${4 * SLICE} bytes at ${place.offset} of file ${place.file}`,
      );
    }
    expect(await filesIn(folder)).toEqual([]);
  });
});
