import { readFileSync } from "node:fs";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { openCheckpoint } from "../../formats/safetensors/read.js";
import { builtUrl } from "../../src/base/paths.js";
import { startLlamaEngine } from "../../src/engines/llama/engine.js";
import { startOnnxEngine } from "../../src/engines/onnx/engine.js";
import type { Engine, Window } from "../../src/engines/types.js";
import { bindCheckpoint } from "../../src/gemma4/bind.js";
import { readConfig } from "../../src/gemma4/config.js";
import { checkpointGraphs, readTextGraphs, type TextGraphs } from "../../src/gemma4/graph/files.js";
import type { DtypeName } from "../../src/plan/onnx/dtypes.js";
import { type OnnxVerified, VerificationEngine } from "../../src/verify/onnx/engine.js";
import { column, createVisitor, pairColumns, singleColumns } from "../../src/verify/visitor.js";
import { makeCheckpoint } from "../support/checkpoints.js";
import { convertFixture, nanoCheckpoint, scratchFolder } from "../support/convert.js";
import { loadOnnx, step } from "../support/onnx-model.js";
import { graphPaths, nanoPackage } from "../support/packages.js";
import { trainedSpread } from "../support/text-models.js";

const visitor = builtUrl(new URL("../../src/verify/verify.js", import.meta.url).href, "./visitor.js");

/** Two runtimes on two threads each would wait for one another where there are two cores. */
const THREADS = 1;

let engine: Engine;
let folder = "";
let f32 = "";
let q40 = "";
let windows: Window[] = [];

/** A model of the engine under a name. */
async function verified(name: string, graphs: TextGraphs, accuracyLevel?: number): Promise<OnnxVerified> {
  return { name, graphs, vocabulary: f32, accuracyLevel, parameters: 1, bytes: 1, description: name };
}

async function packaged(dtype: DtypeName, accuracyLevel?: number): Promise<OnnxVerified> {
  const { embed, decoder } = graphPaths(folder, dtype);
  const name = accuracyLevel === undefined ? dtype : `${dtype} at ${accuracyLevel}`;
  return verified(name, await readTextGraphs(embed, decoder), accuracyLevel);
}

/** The graphs over the shards of a checkpoint. */
async function shardGraphs(from: string): Promise<TextGraphs> {
  const config = await readConfig(from);
  const checkpoint = await openCheckpoint(from);
  const { weights } = bindCheckpoint(config, checkpoint);
  return checkpointGraphs({ config, weights, shards: checkpoint.shards, placeholders: [], padding: 0 });
}

beforeAll(async () => {
  folder = await nanoPackage();
  [f32, q40] = await Promise.all([convertFixture("F32"), convertFixture("Q4_0", { method: "search" })]);
  engine = new VerificationEngine({
    llama: await startLlamaEngine(),
    onnx: await startOnnxEngine(),
    threads: THREADS,
    models: [
      await packaged("fp32"),
      await packaged("q8"),
      await packaged("q8", 4),
      await packaged("q4"),
      await packaged("q4f16"),
      await packaged("q2"),
      await verified("shards", await shardGraphs(nanoCheckpoint)),
    ],
  });
  const { handle } = await engine.load(f32, { threads: THREADS, context: 512 });
  const text = readFileSync("fixtures/text/eval.txt", "utf8").slice(0, 20_000);
  const tokens = await engine.tokenize(handle, text, { special: false, bos: false });
  await engine.unload(handle);
  windows = [0, 1].map((index) => ({
    tokens: Int32Array.from([2, ...tokens.subarray(index * 255, (index + 1) * 255)]),
    first: 128,
  }));
});
afterAll(() => engine.close());

/** Columns of all windows, one array a column. */
async function scored(names: readonly string[], some: readonly Window[] = windows): Promise<number[][]> {
  const handles: number[] = [];
  try {
    for (const name of names)
      handles.push((await engine.load(name, { threads: THREADS, context: 512 })).handle);
    const scores = await engine.score(handles, some, { visitor });
    const { columns } = scores[0]!;
    return Array.from({ length: columns }, (_, at) =>
      scores.flatMap(({ values }) => [...values].filter((_, index) => index % columns === at)),
    );
  } finally {
    for (const handle of handles) await engine.unload(handle);
  }
}

function mean(values: readonly number[]): number {
  return values.reduce((sum, value) => sum + value, 0) / values.length;
}

const divergences = new Map<string, Promise<number>>();

/** Mean KL divergence; measured once. */
function divergence(reference: string, candidate: string): Promise<number> {
  const key = JSON.stringify([reference, candidate]);
  const found =
    divergences.get(key) ??
    scored([reference, candidate]).then((columns) => mean(columns[column.divergence]!));
  divergences.set(key, found);
  return found;
}

/** What the visitor makes of logits that the runtime gives without any of our engine. */
async function visited(dtypes: readonly DtypeName[], { tokens, first }: Window): Promise<number[][]> {
  const rows = tokens.length - 1 - first;
  const logits = [];
  for (const dtype of dtypes) {
    const { embed, decoder } = graphPaths(folder, dtype);
    const all = (await step(await loadOnnx(embed, decoder), [tokens])).logits;
    logits.push(all);
  }
  const judge = createVisitor(1024, dtypes.length);
  const table = Array.from({ length: judge.columns }, (): number[] => []);
  for (let row = 0; row < rows; row++) {
    const at = (first + row) * 1024;
    const out = new Float64Array(judge.columns);
    judge.visit(
      logits.map((each) => each.subarray(at, at + 1024)),
      tokens[first + row + 1]!,
      out,
    );
    for (const [index, value] of out.entries()) table[index]!.push(value);
  }
  return table;
}

function largestDifference(found: readonly number[], expected: readonly number[]): number {
  expect(found).toHaveLength(expected.length);
  return Math.max(...found.map((value, index) => Math.abs(value - expected[index]!)));
}

describe("the engine of verification", () => {
  it("gives the visitor's numbers on the same logits", async () => {
    const [window] = windows;
    for (const pair of [
      ["fp32", "q4"],
      ["q8", "q2"],
      ["q4f16", "fp32"],
    ] as const) {
      const [found, expected] = [await scored(pair, [window!]), await visited(pair, window!)];
      expect(found).toHaveLength(pairColumns);
      for (const at of [column.nll, column.candidateNll, column.divergence]) {
        expect(largestDifference(found[at]!, expected[at]!)).toBeLessThan(1e-5);
      }
      expect(found[column.sameTop]).toEqual(expected[column.sameTop]);
    }
    const [alone] = [await scored(["q4"], [window!])];
    expect(alone).toHaveLength(singleColumns);
    const [nll] = await visited(["q4"], window!);
    expect(largestDifference(alone[0]!, nll!)).toBeLessThan(1e-5);
  });

  it("gives llama.cpp's own numbers of a GGUF file", async () => {
    const some = windows.slice(0, 1);
    const found = await scored([f32, q40], some);
    const llama = await startLlamaEngine();
    try {
      const handles = [];
      for (const path of [f32, q40])
        handles.push((await llama.load(path, { threads: THREADS, context: 512 })).handle);
      const scores = await llama.score(handles, some, { visitor });
      const expected = scores.flatMap(({ values }) =>
        [...values].filter((_, index) => index % pairColumns === column.divergence),
      );
      expect(largestDifference(found[column.divergence]!, expected)).toBeLessThan(1e-5);
    } finally {
      await llama.close();
    }
  });

  it("finds an exact package as good as the checkpoint in llama.cpp, whichever is the reference", async () => {
    expect(await divergence(f32, "fp32")).toBeLessThan(1e-6);
    expect(await divergence("fp32", f32)).toBeLessThan(1e-6);
  });

  it("finds the graphs over a checkpoint's shards to be the same as a package in fp32", async () => {
    const [reference, candidate, kl, same] = await scored(["shards", "fp32"]);
    expect(largestDifference(candidate!, reference!)).toBeLessThan(1e-5);
    expect(mean(kl!)).toBeLessThan(1e-9);
    expect(mean(same!)).toBe(1);
    expect(await divergence("shards", f32)).toBeLessThan(1e-6);
  });

  it("finds what rounding costs: little at 8 bits, at 4 no more than Q4_0, more at 2", async () => {
    const q8 = await divergence(f32, "q8");
    expect(q8).toBeGreaterThan(1e-6);
    expect(q8).toBeLessThan(3e-4);
    const q4 = await divergence(f32, "q4");
    expect(q4).toBeGreaterThan(q8);
    expect(q4).toBeLessThan(await divergence(f32, q40));
    expect(await divergence(f32, "q2")).toBeGreaterThan(q4);
    expect(await divergence("q4", "q4f16")).toBeLessThan(1e-4);
  });

  it("takes a level in place of the file's", async () => {
    const exact = await divergence(f32, "q8");
    const rounded = await divergence(f32, "q8 at 4");
    expect(rounded).toBeGreaterThan(1.5 * exact);
    expect(rounded).toBeLessThan(1e-3);
  });

  it("sees the same past four sliding windows", async () => {
    const long: Window = {
      tokens: Int32Array.from([2, ...windows.flatMap(({ tokens }) => [...tokens.subarray(1)]).slice(0, 400)]),
      first: 64,
    };
    const found = await scored([f32, "fp32"], [long]);
    expect(mean(found[column.divergence]!)).toBeLessThan(1e-6);
  });

  it("stops when it is told to", async () => {
    const { handle } = await engine.load("q4", { threads: 1, context: 512 });
    const stop = new AbortController();
    const reason = new Error("enough");
    const scoring = engine.score([handle], windows, {
      visitor,
      signal: stop.signal,
      onWindow: () => stop.abort(reason),
    });
    await expect(scoring).rejects.toBe(reason);
    await engine.unload(handle);
  });
});

describe("graphs over a checkpoint in shards", () => {
  it("agree with llama.cpp", async () => {
    const source = join(scratchFolder(), "random-it");
    await makeCheckpoint(source, { kind: "e", shards: 3, spread: trainedSpread });
    const path = await convertFixture("F32", { source });
    const own = new VerificationEngine({
      llama: await startLlamaEngine(),
      onnx: await startOnnxEngine(),
      threads: THREADS,
      models: [{ ...(await verified("shards", await shardGraphs(source))), vocabulary: path }],
    });
    try {
      const handles = [];
      for (const name of [path, "shards"])
        handles.push((await own.load(name, { threads: THREADS, context: 512 })).handle);
      const short = { tokens: windows[0]!.tokens.subarray(0, 96), first: 32 };
      const [scores] = await own.score(handles, [short], { visitor });
      const kl = [...scores!.values].filter((_, index) => index % pairColumns === column.divergence);
      expect(mean(kl)).toBeLessThan(1e-6);
    } finally {
      await own.close();
    }
  });
});
