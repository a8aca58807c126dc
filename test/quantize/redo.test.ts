import { copyFile, mkdir, open, readFile, rm, stat, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { beforeAll, describe, expect, it } from "vitest";
import { openGguf } from "../../formats/gguf/read.js";
import { packageVersion } from "../../src/base/paths.js";
import { readJournal } from "../../src/quantize/journal.js";
import {
  isComplete,
  type QuantizeProgress,
  runPlan,
  type RunPlanOptions,
} from "../../src/quantize/quantize.js";
import { makeCheckpoint } from "../support/checkpoints.js";
import { filesIn, prepare, scratch } from "./nano.js";

const root = scratch();
const source = join(root, "source");
const mix = "Q6_K";
const enough = new Error("enough");

let prepared: Awaited<ReturnType<typeof prepare>>;
let whole: Buffer;
/** Tensors that come from the checkpoint. */
let stored = 0;

beforeAll(async () => {
  // Some 25 million values: most of a second for one thread, which is looked at ten times in it.
  await makeCheckpoint(source, { hidden: 768, text: { intermediate_size: 1024 } });
  prepared = await prepare(source, { mix });
  stored = prepared.plan.tensors.filter(({ origin }) => origin.kind === "file").length;
  await run(join(root, "whole.gguf"));
  whole = await readFile(join(root, "whole.gguf"));
});

function run(output: string, options: Partial<RunPlanOptions> = {}) {
  return runPlan({ ...prepared, output, threads: 1, memoryBytes: 2 ** 26, ...options });
}

async function place(name: string): Promise<string> {
  const folder = join(root, name);
  await mkdir(folder);
  return folder;
}

/** Starts a run and aborts it once tensors behind the first one are finished; what it wrote stays. */
async function breakOff(output: string, options: Partial<RunPlanOptions> = {}): Promise<void> {
  const controller = new AbortController();
  await expect(
    run(output, {
      ...options,
      signal: controller.signal,
      onProgress: ({ rate, tensor }) => {
        if (rate > 0 && tensor !== "token_embd.weight") controller.abort(enough);
      },
    }),
  ).rejects.toBe(enough);
}

async function finishedIn(output: string): Promise<string[]> {
  const earlier = await readJournal(output);
  return [...(earlier?.finished.keys() ?? [])].map((index) => prepared.plan.tensors[index]?.name ?? "");
}

function matching(pattern: RegExp): number {
  return prepared.plan.tensors.filter(({ name, origin }) => origin.kind === "file" && pattern.test(name))
    .length;
}

/** Flips a bit in the middle of a tensor. */
async function damage(path: string, name: string): Promise<void> {
  const tensor = (await openGguf(join(root, "whole.gguf"))).tensors.find((each) => each.name === name);
  const at = (tensor?.offset ?? 0) + Math.floor((tensor?.byteLength ?? 0) / 2);
  const file = await open(path, "r+");
  const byte = Buffer.alloc(1);
  await file.read(byte, 0, 1, at);
  byte[0] = (byte[0] ?? 0) ^ 16;
  await file.write(byte, 0, 1, at);
  await file.close();
}

async function expectWhole(output: string): Promise<void> {
  expect((await readFile(output)).equals(whole)).toBe(true);
}

describe("the journal", () => {
  it("notes a hash of every finished tensor and the size of the tiles it is made of", async () => {
    const output = join(await place("notes"), "out.gguf");
    await run(output, { keepJournal: true });
    const [head, ...lines] = (await readFile(`${output}.journal`, "utf8")).trim().split("\n");
    expect(JSON.parse(head ?? "")).toMatchObject({
      lapidaryJournal: 2,
      version: packageVersion(),
      mix,
      redo: null,
    });
    expect(lines[0]).toMatch(/^\{"tile":524288,"done":\[\[\d+,"[0-9a-f]{16}"\]/);
    expect(lines.at(-1)).toMatch(/^\{"complete":/);
    const earlier = await readJournal(output);
    expect(earlier?.finished.size).toBe(stored);
    expect(earlier?.complete).toHaveLength(1);
  });

  it("of version 1, which has no hashes, counts as none", async () => {
    const output = join(await place("version1"), "out.gguf");
    await breakOff(output);
    const text = await readFile(`${output}.journal`, "utf8");
    const [head = ""] = text.split("\n");
    await writeFile(`${output}.journal`, `${head.replace('Journal":2', 'Journal":1')}\n[0,1,2]\n`);
    expect(await run(output)).toMatchObject({ resumed: 0, damaged: 0 });
    await expectWhole(output);
  });

  it("with entries that make no sense costs nothing but the work they stand for", async () => {
    const output = join(await place("nonsense"), "out.gguf");
    await breakOff(output);
    const finished = (await finishedIn(output)).length;
    const nonsense = [
      `{"tile":1e15,"done":[[0,"00"]]}`,
      `{"tile":0,"done":[[0,"00"]]}`,
      `{"tile":524288,"done":[[9999,"00"],[-1,"00"],[0],5,null,["0","00"]]}`,
      `{"tile":524288}`,
      `[1,2,3]`,
      `7`,
    ].join("\n");
    await writeFile(`${output}.journal`, `${await readFile(`${output}.journal`, "utf8")}${nonsense}\n`);
    expect(await run(output)).toMatchObject({ resumed: finished, damaged: 0 });
    await expectWhole(output);
  });
});

describe("resuming", () => {
  it("does tensors again whose bytes are not those that were written, and says how many", async () => {
    const output = join(await place("damaged"), "out.gguf");
    await breakOff(output);
    const finished = await finishedIn(output);
    expect(finished.length).toBeGreaterThan(0);
    await damage(`${output}.partial`, finished[0] ?? "");
    expect(await run(output)).toMatchObject({ resumed: finished.length - 1, damaged: 1, redone: 0 });
    await expectWhole(output);
  });

  it("checks hashes of tiles of another size than its own", async () => {
    const output = join(await place("tiles"), "out.gguf");
    await breakOff(output, { memoryBytes: 10 * 2 ** 20 });
    expect(await readFile(`${output}.journal`, "utf8")).toContain('{"tile":262144,');
    const finished = (await finishedIn(output)).length;
    const reports: QuantizeProgress[] = [];
    const result = await run(output, { onProgress: (progress) => reports.push(progress) });
    expect(result).toMatchObject({ resumed: finished, damaged: 0 });
    const read = reports.map(({ bytesRead }) => bytesRead);
    expect(read).toEqual(read.toSorted((a, b) => a - b));
    expect(reports.at(-1)).toMatchObject({ bytesRead: reports[0]?.totalBytes, tensor: null, eta: 0 });
    expect(reports.at(-1)?.bytesWritten).toBe(prepared.plan.byteLength);
    await expectWhole(output);
  });

  it("that is stopped while it checks loses nothing", async () => {
    const output = join(await place("stopped"), "out.gguf");
    await breakOff(output);
    const finished = await finishedIn(output);
    const journal = await readFile(`${output}.journal`, "utf8");
    const controller = new AbortController();
    // Read just before the check.
    const metadata = {
      *[Symbol.iterator]() {
        controller.abort(enough);
        yield* prepared.metadata;
      },
    };
    await expect(run(output, { metadata, signal: controller.signal })).rejects.toBe(enough);
    expect(await readFile(`${output}.journal`, "utf8")).toBe(journal);
    expect(await run(output)).toMatchObject({ resumed: finished.length });
    await expectWhole(output);
  });
});

describe("redo", () => {
  it("drops tensors from the finished ones of an unfinished run, once", async () => {
    const folder = await place("unfinished");
    const output = join(folder, "out.gguf");
    await breakOff(output);
    const finished = await finishedIn(output);
    const first = finished[0] ?? "";
    // Whole, or it would match per_layer_token_embd too, which the second stop does not wait for.
    const pattern = `^${first.toUpperCase().replaceAll(".", "\\.")}$`;
    await breakOff(output, { redo: pattern });
    const since = await finishedIn(output);
    expect(since).toEqual(expect.arrayContaining(finished));
    expect(await readJournal(output)).toMatchObject({ head: { redo: pattern } });
    // The same command goes on where it was stopped.
    expect(await run(output, { redo: pattern })).toMatchObject({ resumed: since.length, redone: 0 });
    await expectWhole(output);
    expect(await filesIn(folder)).toEqual(["out.gguf"]);
  });

  it("takes the other tensors from the whole file", async () => {
    const folder = await place("complete");
    const output = join(folder, "out.gguf");
    await copyFile(join(root, "whole.gguf"), output);
    await damage(output, "blk.1.ffn_down.weight");
    await damage(output, "blk.2.ffn_up.weight");
    expect(await run(output, { redo: "FFN_DOWN" })).toMatchObject({
      resumed: stored - matching(/ffn_down/),
      redone: matching(/ffn_down/),
      damaged: 0,
    });
    expect(await filesIn(folder)).toEqual(["out.gguf"]);
    // Only what was asked for was done again.
    expect((await readFile(output)).equals(whole)).toBe(false);
    await run(output, { redo: "blk\\.2\\.ffn_(up|gate)" });
    await expectWhole(output);
  });

  it("leaves the old file whole until the new one takes its name, and goes on after a stop", async () => {
    const folder = await place("crash");
    const output = join(folder, "out.gguf");
    await copyFile(join(root, "whole.gguf"), output);
    await damage(output, "blk.3.ffn_down.weight");
    const before = await readFile(output);
    await breakOff(output, { redo: "ffn|token_embd" });
    expect((await readFile(output)).equals(before)).toBe(true);
    expect(await filesIn(folder)).toEqual(["out.gguf", "out.gguf.journal", "out.gguf.partial"]);
    const finished = await finishedIn(output);
    expect(finished.length).toBeGreaterThan(stored - matching(/ffn|token_embd/));
    // Without leave to replace the file, nothing happens to it.
    await expect(run(output)).rejects.toMatchObject({ code: "output-exists" });
    expect(await run(output, { redo: "ffn|token_embd" })).toMatchObject({
      resumed: finished.length,
      redone: 0,
    });
    await expectWhole(output);
  });

  it("does everything when it finds everything, and leaves the old file when that fails", async () => {
    const folder = await place("all");
    const output = join(folder, "out.gguf");
    await copyFile(join(root, "whole.gguf"), output);
    await expect(run(output, { redo: ".", memoryBytes: 2 ** 20 })).rejects.toMatchObject({
      code: "memory-too-small",
    });
    expect(await filesIn(folder)).toEqual(["out.gguf"]);
    expect(await run(output, { redo: "." })).toMatchObject({ resumed: 0, redone: stored });
    await expectWhole(output);
  });

  it("handles all parts of a split model", async () => {
    const folder = await place("split");
    const output = join(folder, "out.gguf");
    const { paths } = await run(output, { splitMaxBytes: 2 ** 22 });
    expect(paths.length).toBeGreaterThan(2);
    const before = await Promise.all(paths.map((path) => readFile(path)));
    for (const path of paths) {
      const { size } = await stat(path);
      const file = await open(path, "r+");
      await file.write(Buffer.alloc(8, 0xff), 0, 8, size - 4000);
      await file.close();
    }
    await run(output, { splitMaxBytes: 2 ** 22, redo: "weight" });
    expect(await filesIn(folder)).toHaveLength(paths.length);
    for (const [part, path] of paths.entries()) {
      expect((await readFile(path)).equals(before[part] ?? Buffer.alloc(0))).toBe(true);
    }
    await rm(paths[1] ?? "");
    await expect(run(output, { splitMaxBytes: 2 ** 22, redo: "weight" })).rejects.toMatchObject({
      code: "redo-differs",
      message: expect.stringMatching(/its part .*-00002-of-.* is missing/) as unknown,
    });
  });

  it("counts as complete only for the run that did it", async () => {
    const output = join(await place("kept"), "out.gguf");
    await run(output, { keepJournal: true });
    expect(await isComplete({ ...prepared, output })).toBe(true);
    expect(await isComplete({ ...prepared, output, redo: "ffn" })).toBe(false);
    expect(await run(output, { redo: "ffn", keepJournal: true })).toMatchObject({ redone: matching(/ffn/) });
    expect(await isComplete({ ...prepared, output, redo: "ffn" })).toBe(true);
    expect(await isComplete({ ...prepared, output, redo: "attn" })).toBe(false);
    expect(await isComplete({ ...prepared, output })).toBe(true);
    await expectWhole(output);
  });
});

describe("redo refuses", () => {
  it("a pattern that finds nothing, or is none", async () => {
    const output = join(root, "whole.gguf");
    await expect(run(output, { redo: "ffn_sideways" })).rejects.toMatchObject({
      code: "pattern-finds-nothing",
      exitCode: 2,
    });
    await expect(run(output, { redo: "ffn_(down" })).rejects.toMatchObject({
      code: "bad-pattern",
      exitCode: 2,
    });
    await expectWhole(output);
  });

  it("when there is nothing", async () => {
    const folder = await place("nothing");
    await expect(run(join(folder, "out.gguf"), { redo: "ffn" })).rejects.toMatchObject({
      code: "redo-nothing",
      exitCode: 2,
    });
    expect(await filesIn(folder)).toEqual([]);
  });

  it("a file of other types, metadata or size, with the difference, leaving it as it is", async () => {
    const folder = await place("other");
    const output = join(folder, "out.gguf");
    await copyFile(join(root, "whole.gguf"), output);
    const redo = "ffn_down";
    const types = await prepare(source, { mix, tensorTypes: [{ pattern: "ffn_down", type: "Q8_0" }] });
    await expect(run(output, { ...types, redo })).rejects.toMatchObject({
      code: "redo-differs",
      exitCode: 2,
      message: expect.stringContaining(
        "other types (blk.0.ffn_down.weight is Q6_K, not Q8_0, blk.1.ffn_down.weight is Q6_K, not Q8_0, blk.2.ffn_down.weight is Q6_K, not Q8_0 and 1 more)",
      ) as unknown,
    });
    const named = [...prepared.metadata].map(([key, value]): [string, typeof value] =>
      key === "general.name" ? [key, { type: "string", value: "other" }] : [key, value],
    );
    await expect(run(output, { metadata: named, redo })).rejects.toThrow(
      "it has other metadata (general.name),",
    );
    await expectWhole(output);
    const file = await open(output, "a");
    await file.write("x");
    await file.close();
    await expect(run(output, { redo })).rejects.toThrow(
      `it has ${whole.length + 1} bytes, not ${whole.length}`,
    );
    await writeFile(output, "no model");
    await expect(run(output, { redo })).rejects.toThrow("it has another header");
    expect(await filesIn(folder)).toEqual(["out.gguf"]);
  });
});
