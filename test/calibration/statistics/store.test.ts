import { appendFile, mkdir, mkdtemp, readdir, readFile, truncate, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { describe, expect, it } from "vitest";
import { makeStore, openStore, type StatisticsHeader } from "../../../calibration/statistics/store.js";
import type { InputStatistics, Moments, StepStatistics } from "../../../calibration/statistics/types.js";
import { scratchFolder } from "../../support/convert.js";
import { randomFrom } from "../../support/weights.js";

const hash = (digit: string): string => digit.repeat(64);
const header: StatisticsHeader = {
  checkpoint: [{ file: "model.safetensors", bytes: 7, sha256: hash("a") }],
  text: { sha256: hash("b"), windows: 2, tokens: 10 },
  method: { order: "parallel", memory: 100 },
  steps: 2,
};

const random = randomFrom(1);

function doubles(count: number): Float64Array {
  return Float64Array.from({ length: count }, random);
}

/** Blocks that are symmetric, or are not. */
function moments(columns: number, blockWidth: number, tokens: number, symmetric: boolean): Moments {
  const blocks: number[][] = [];
  for (let start = 0; start < columns; start += blockWidth) {
    const width = Math.min(blockWidth, columns - start);
    const block = Array.from({ length: width ** 2 }, random);
    for (let row = 0; row < width; row++) {
      for (let column = 0; column < row; column++) {
        if (symmetric) block[column * width + row] = block[row * width + column]!;
      }
    }
    blocks.push(block);
  }
  return { columns, blockWidth, tokens, values: Float32Array.from(blocks.flat()) };
}

const plain = (input: string, columns: number): InputStatistics => ({
  input,
  weights: [`${input}.weight`],
  columns,
  tokens: 10,
  sum: doubles(columns),
  sumSquares: doubles(columns),
  moments: null,
  cross: null,
  experts: null,
});

const first: StepStatistics = {
  index: 0,
  kind: "embedding",
  layer: null,
  statistics: [{ ...plain("a", 5), moments: moments(5, 5, 9, true), cross: moments(5, 5, 9, false) }],
  frequencies: [{ weight: "table", counts: doubles(12) }],
};
const second: StepStatistics = {
  index: 1,
  kind: "layer",
  layer: 0,
  statistics: [
    { ...plain("b", 600), moments: moments(600, 256, 9, true), cross: moments(600, 256, 9, false) },
    {
      ...plain("c", 4),
      experts: {
        tokens: Float64Array.of(3, 0),
        sum: doubles(8),
        sumSquares: doubles(8),
        moments: [moments(4, 4, 3, true), moments(4, 4, 0, true)],
      },
    },
  ],
  frequencies: [],
};

async function made(): Promise<string> {
  const folder = await mkdtemp(join(scratchFolder(), "statistics-"));
  const store = await makeStore(folder, header);
  await store.append(first);
  await store.append(second);
  return folder;
}

describe("a folder of statistics", () => {
  it("gives back what was put in", async () => {
    const store = await openStore(await made(), header);
    expect(store.complete).toBe(true);
    expect(store.header).toEqual(header);
    expect(await store.read(0)).toEqual(first);
    expect(await store.read(1)).toEqual(second);
  });

  it("goes on where another run stopped, and loses its scratch folder in the end", async () => {
    const folder = join(scratchFolder(), "new", "statistics");
    const begun = await makeStore(folder, header);
    await mkdir(join(await begun.scratch(), "states"));
    await begun.append(first);
    const next = await makeStore(folder, header);
    expect(next.done.map(({ index }) => index)).toEqual([0]);
    expect(next.complete).toBe(false);
    await expect(next.read(1)).rejects.toMatchObject({ code: "statistics-missing" });
    await next.append({ ...second, statistics: [] });
    expect(await readdir(folder)).toEqual(["statistics.json", "step-0000.bin", "step-0001.bin"]);
    await next.append(first);
    expect((await openStore(folder)).done).toHaveLength(1);
    await expect(next.append({ ...first, index: 2 })).rejects.toThrow("step 2");
  });

  it.each([
    ["checkpoint", { checkpoint: [{ ...header.checkpoint[0]!, sha256: hash("c") }] }, [hash("a"), hash("c")]],
    ["text", { text: { ...header.text, tokens: 11 } }, ["tokens", "10", "11"]],
    ["method", { method: { ...header.method, order: "sequential" } }, ["parallel", "sequential"]],
  ])("is refused for another %s", async (what, other, named) => {
    const folder = await made();
    for (const open of [openStore(folder, other), makeStore(folder, { ...header, ...other })]) {
      const error: unknown = await open.catch((reason: unknown) => reason);
      expect(error).toMatchObject({ name: "StatisticsError", code: `other-${what}`, exitCode: 2 });
      for (const text of named) expect((error as Error).message).toContain(text);
    }
  });

  it("is refused where there is none", async () => {
    await expect(openStore(scratchFolder())).rejects.toMatchObject({ code: "statistics-missing" });
  });

  it.each<[string, (folder: string) => Promise<void>]>([
    ["a file that is too short", (folder) => truncate(join(folder, "step-0001.bin"), 100)],
    ["a file that is too long", (folder) => appendFile(join(folder, "step-0001.bin"), "12345678")],
    [
      "numbers that are not finite",
      async (folder) => {
        const path = join(folder, "step-0001.bin");
        const bytes = await readFile(path);
        bytes.writeFloatLE(Number.NaN, bytes.length - 4);
        await writeFile(path, bytes);
      },
    ],
  ])("is refused with %s", async (_what, damage) => {
    const folder = await made();
    await damage(folder);
    const store = await openStore(folder, header);
    expect(await store.read(0)).toEqual(first);
    await expect(store.read(1)).rejects.toMatchObject({ code: "statistics-damaged" });
  });

  it.each<[string, (json: string) => string]>([
    ["no JSON", (json) => json.slice(0, -9)],
    ["another version", (json) => json.replace('"formatVersion":1', '"formatVersion":2')],
    ["blocks wider than the matrix", (json) => json.replace('"blockWidth":5', '"blockWidth":6')],
    ["as many experts as it has not", (json) => json.replace('"count":2', '"count":3')],
    ["steps in another order", (json) => json.replace('"index":1', '"index":0')],
    ["huge columns", (json) => json.replace('"columns":600', '"columns":1e12')],
  ])("is refused with a list that has %s", async (_what, change) => {
    const folder = await made();
    const path = join(folder, "statistics.json");
    const json = await readFile(path, "utf8");
    expect(change(json)).not.toBe(json);
    await writeFile(path, change(json));
    await expect(openStore(folder)).rejects.toMatchObject({ code: "statistics-damaged" });
  });
});
