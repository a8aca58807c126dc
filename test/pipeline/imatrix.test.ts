import { existsSync, readdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import * as fc from "fast-check";
import { describe, expect, it } from "vitest";
import ImatrixInspect from "../../commands/imatrix/inspect.js";
import ImatrixMerge from "../../commands/imatrix/merge.js";
import { LapidaryError } from "../../src/base/errors.js";
import {
  compareImatrices,
  type ImatrixComparison,
  inspectImatrix,
  type InspectedImportance,
  mergeImatrices,
  parseWeighted,
} from "../../src/pipeline/imatrix.js";
import { convertFixture, scratchFolder } from "../support/convert.js";
import { legacyBytes, writeFloats } from "../support/imatrix.js";
import { runCommand } from "../support/run-command.js";

const reference = "fixtures/reference/imatrix.gguf";
const folder = scratchFolder();

type Lists = Readonly<Record<string, readonly [sums: readonly number[], counts: readonly number[]]>>;

function fileOf(name: string, lists: Lists): string {
  const tensors = Object.entries(lists).flatMap(([name, [sums, counts]]): [string, readonly number[]][] => [
    [`${name}.in_sum2`, sums],
    [`${name}.counts`, counts],
  ]);
  return writeFloats(join(folder, name), new Map(tensors));
}

async function tensorOf(path: string, name: string): Promise<InspectedImportance> {
  const found = (await inspectImatrix(path)).tensors.find((tensor) => tensor.name === name);
  if (found === undefined) throw new Error(`${name} is not in ${path}`);
  return found;
}

/** Printed by llama-imatrix of v0.5.0: Σ(Act²), min, max, μ, σ, % active, N, entropy, % of the most, % ZD, CosSim. */
const PRINTED: Readonly<Record<string, readonly (number | null)[]>> = {
  "blk.0.ffn_up.weight": [241.04, 0.6482, 6.2603, 0.94, 0.39, 100, 256, 7.9286, 99.11, 5.08, null],
  "blk.1.attn_k.weight": [257.29, 0.5996, 7.0013, 1.01, 0.48, 100, 256, 7.9007, 98.76, 5.47, 0.8942],
  "blk.2.attn_output.weight": [62.84, 0.0843, 0.6306, 0.25, 0.09, 100, 256, 7.902, 98.78, 13.67, null],
  "blk.3.ffn_down.weight": [1328.86, 0.0067, 27.1898, 1.3, 1.94, 100, 1024, 9.2068, 92.07, 7.62, 0.4134],
  "blk.3.inp_gate.weight": [2915.28, 5.6454, 50.907, 11.39, 6.17, 100, 256, 7.8466, 98.08, 9.38, 0.9568],
};

/** Half a unit of its last digit, and some for a sum in single precision. */
const TOLERANCE = [0.006, 6e-5, 6e-5, 0.006, 0.006, 0.006, 0, 1.5e-4, 0.006, 0.006, 1e-4];

describe("the figures of an importance matrix", () => {
  it("are those that llama-imatrix prints", async () => {
    const inspected = await inspectImatrix(reference);
    expect(inspected).toMatchObject({ kind: "imatrix", format: "gguf", chunks: 200, chunkTokens: 512 });
    expect(inspected.tensors).toHaveLength(32);
    for (const [name, printed] of Object.entries(PRINTED)) {
      const { columns, distribution, cosine } = await tensorOf(reference, name);
      const { sum, min, max, mean, deviation, active, entropy, evenness, high } = distribution!;
      const shares = [100 * active, columns, entropy, 100 * (evenness ?? Number.NaN), 100 * high];
      const counted = [sum, min, max, mean, deviation, ...shares, cosine];
      // The tool compares a layer with one of another width too, beyond the end of its values.
      expect(counted.map((value) => value === null)).toEqual(printed.map((value) => value === null));
      for (const [at, value] of counted.entries()) {
        expect(Math.abs((value ?? 0) - (printed[at] ?? 0))).toBeLessThanOrEqual(TOLERANCE[at]!);
      }
    }
  });

  it("leave out what no token met", async () => {
    const path = fileOf("stack.gguf", {
      "blk.0.ffn_up_exps.weight": [
        [4, 0, 5, 5, 30, 60, 1, 0],
        [2, 0, 30, 1],
      ],
    });
    const { columns, matrices, counts, distribution, starved } = await tensorOf(
      path,
      "blk.0.ffn_up_exps.weight",
    );
    expect({ columns, matrices, counts }).toEqual({
      columns: 2,
      matrices: 4,
      counts: { least: 0, mean: 8.25, most: 30 },
    });
    // 2, 0; 1, 2; 1, 0
    expect(distribution).toMatchObject({ sum: 6, min: 0, max: 2, mean: 1, zero: 1 / 3, active: 2 / 3 });
    expect(distribution?.deviation).toBeCloseTo(Math.sqrt(4 / 6), 12);
    expect(distribution?.entropy).toBeCloseTo((2 / 3) * Math.log2(3) + (1 / 3) * Math.log2(6), 12);
    expect(distribution?.high).toBeCloseTo(1 / 3, 12);
    // Less than a tenth of 8.25, or none.
    expect(starved).toEqual([{ expert: 1, count: 0 }]);
  });

  it("name experts that saw far less than the others", async () => {
    const counts = [...Array.from({ length: 18 }, () => 100), 5, 0];
    const sums = counts.map(() => 0);
    const path = fileOf("starved.gguf", {
      w: [sums, counts],
      lone: [[1], [0]],
      flat: [Array.from({ length: 10 }, () => 1), [10]],
    });
    expect((await tensorOf(path, "w")).starved).toEqual([
      { expert: 18, count: 5 },
      { expert: 19, count: 0 },
    ]);
    expect(await tensorOf(path, "lone")).toMatchObject({ starved: [], distribution: null });
    expect((await tensorOf(path, "w")).distribution).toMatchObject({ sum: 0, entropy: 0, evenness: 0 });
    // The mean of ten times 0.1 is a bit below 0.1.
    const { deviation, high, evenness } = (await tensorOf(path, "flat")).distribution!;
    expect({ deviation, high, evenness }).toEqual({
      deviation: 0,
      high: 0,
      evenness: expect.closeTo(1, 12) as number,
    });
  });

  it("compare a layer with the one before, of the same width only", async () => {
    const path = fileOf("layers.gguf", {
      "blk.9.ffn_up.weight": [[1, 0], [1]],
      "blk.10.ffn_up.weight": [[3, 4], [5]],
      "blk.11.ffn_up.weight": [[1, 2, 3], [1]],
      "blk.12.ffn_up.weight": [[0, 0, 0], [1]],
      "output.weight": [[1], [1]],
    });
    const { tensors } = await inspectImatrix(path);
    expect(tensors.map(({ name, cosine }) => [name, cosine])).toEqual([
      ["blk.9.ffn_up.weight", null],
      ["blk.10.ffn_up.weight", 0.6],
      ["blk.11.ffn_up.weight", null],
      ["blk.12.ffn_up.weight", null],
      ["output.weight", null],
    ]);
  });

  it("of the old format have no tokens", async () => {
    const path = join(folder, "old.dat");
    const entries = [
      { name: "w", calls: 4, values: [4, 12] },
      { name: "v", calls: 0, values: [1] },
    ];
    writeFileSync(path, legacyBytes(entries));
    expect(await inspectImatrix(path)).toMatchObject({ format: "legacy", chunks: 0, chunkTokens: null });
    expect(await tensorOf(path, "w")).toMatchObject({
      counts: { least: 4, mean: 4, most: 4 },
      distribution: { mean: 2, min: 1, max: 3 },
    });
    expect((await tensorOf(path, "v")).distribution).toBeNull();
  });
});

describe("two importance matrices", () => {
  it("agree as their columns do", async () => {
    const a = fileOf("a.gguf", {
      same: [[1, 2, 3], [1]],
      opposite: [[1, 2, 3], [1]],
      flat: [[1, 1, 1], [10]],
      shape: [[1, 1], [1]],
      gone: [[1], [1]],
      exps: [
        [1, 2, 1, 2, 1, 2],
        [1, 1, 0],
      ],
      dead: [[0, 0], [0]],
    });
    const b = fileOf("b.gguf", {
      same: [[20, 40, 60], [10]],
      opposite: [[3, 2, 1], [1]],
      flat: [[1, 2, 0], [10]],
      shape: [[1, 1, 1], [1]],
      come: [[1], [1]],
      exps: [
        [1, 2, 2, 1, 5, 9],
        [1, 1, 1],
      ],
      dead: [[1, 2], [1]],
    });
    const report = await compareImatrices(a, b);
    const close = (value: number) => expect.closeTo(value, 12) as number;
    const none = { correlation: null, worstExpert: null };
    const expected: ImatrixComparison["tensors"] = [
      { name: "come", state: "onlyB", likeness: null },
      { name: "dead", state: "compared", likeness: { ...none, ratio: null } },
      {
        name: "exps",
        state: "compared",
        likeness: { correlation: close(0), ratio: 1, worstExpert: { expert: 1, correlation: close(-1) } },
      },
      { name: "flat", state: "compared", likeness: { ...none, ratio: close(1) } },
      { name: "gone", state: "onlyA", likeness: null },
      {
        name: "opposite",
        state: "compared",
        likeness: { correlation: close(-1), ratio: 1, worstExpert: null },
      },
      {
        name: "same",
        state: "compared",
        likeness: { correlation: close(1), ratio: close(2), worstExpert: null },
      },
      { name: "shape", state: "otherShape", likeness: null },
    ];
    expect(report.tensors).toEqual(expected);
    expect(report.worst).toEqual({ name: "opposite", correlation: close(-1) });
    expect(report.a).toMatchObject({ path: a, tensors: 7, chunks: 3, chunkTokens: 512 });
  });

  it("of different models are refused", async () => {
    const other = fileOf("other.gguf", { elsewhere: [[1], [1]] });
    await expect(compareImatrices(reference, other)).rejects.toMatchObject({
      code: "imatrix-mismatch",
      exitCode: 2,
    });
  });
});

describe("a weighted file", () => {
  it.each([
    ["a.gguf", "a.gguf", 1],
    ["a.gguf=2.5", "a.gguf", 2.5],
    ["a=b=1e-3", "a=b", 0.001],
    ["a=b.gguf", "a=b.gguf", 1],
    ["=3", "=3", 1],
    ["a=", "a=", 1],
    ["a=0x10", "a=0x10", 1],
  ])("%s", (text, path, weight) => {
    expect(parseWeighted(text)).toEqual({ path, weight });
  });

  it.each(["a=0", "a=-1", "a=1e9", "a=1e999"])("%s is refused", (text) => {
    expect(() => parseWeighted(text)).toThrow(/the weight is .*, expected a number above 0/);
  });
});

describe("imatrix merge", () => {
  it("writes the sum, and says what it added", async () => {
    const out = join(folder, "merged.gguf");
    const some = fileOf("some.gguf", {
      "output.weight": [[1], [512]],
      "blk.0.proj.weight": [Array.from({ length: 64 }, () => 2), [512]],
    });
    const run = await runCommand(ImatrixMerge, [reference, `${some}=2`, "--out", out, "--json"]);
    expect(run).toMatchObject({ code: 0, stderr: "" });
    const report = JSON.parse(run.stdout) as { partial: { name: string; missing: string[] }[] };
    expect(report).toMatchObject({
      path: out,
      bytes: readFileSync(out).length,
      tensors: 33,
      datasets: ["calibration.txt", "a/b.txt"],
      chunks: 202,
      chunkTokens: 512,
      files: [
        { path: reference, weight: 1, tensors: 32 },
        { path: some, weight: 2, tensors: 2 },
      ],
    });
    expect(report.partial).toContainEqual({ name: "output.weight", missing: [reference] });
    expect(report.partial).toHaveLength(32);
    const [before, after] = [
      await tensorOf(reference, "blk.0.proj.weight"),
      await tensorOf(out, "blk.0.proj.weight"),
    ];
    expect(after.counts.most).toBe(before.counts.most + 1024);
    expect(readdirSync(folder).filter((name) => /partial|lock/.test(name))).toEqual([]);
    const text = await runCommand(ImatrixMerge, [reference, some, "--out", out, "--force"]);
    expect(text).toMatchObject({ code: 0, stderr: "" });
    expect(text.stdout).toContain("not in imatrix.gguf: output.weight");
  });

  it("may replace a file that it has read", async () => {
    const path = fileOf("self.gguf", { w: [[1, 2], [1]] });
    const run = await runCommand(ImatrixMerge, [path, path, "--out", path, "--force"]);
    expect(run.code).toBe(0);
    expect((await tensorOf(path, "w")).counts.most).toBe(2);
  });

  it("refuses what it cannot add, and writes nothing", async () => {
    const taken = fileOf("taken.gguf", { w: [[1], [1]] });
    const before = readFileSync(taken);
    const model = await convertFixture("Q8_0");
    const out = join(folder, "never.gguf");
    const shape = fileOf("shape.gguf", { "blk.0.proj.weight": [[1], [1]] });
    const cases: [string[], 1 | 2, RegExp][] = [
      [[taken, "--out", taken], 2, /taken\.gguf: is there already/],
      [[taken, "--out", folder, "--force"], 2, /is a folder/],
      [[taken, "--out", join(folder, "none", "a.gguf")], 1, /its folder does not exist/],
      [[join(folder, "missing.gguf"), "--out", out], 2, /missing\.gguf: there is no such file/],
      [[reference, model, "--out", out], 2, /expected an importance matrix/],
      [[reference, taken, "--out", out], 2, /taken\.gguf: none of its 1 tensors \(w, …\) is in/],
      [[reference, shape, "--out", out], 2, /shape\.gguf: blk\.0\.proj\.weight has 1 values, expected 64/],
      [[`${reference}=0`, "--out", out], 2, /the weight is 0/],
      [[reference, "--context", "0", "--out", out], 2, /greater than or equal to 1/],
      [["--out", out], 2, /Missing 1 required arg/],
      [[reference], 2, /Missing required flag --out/],
    ];
    for (const [argv, code, words] of cases) {
      const run = await runCommand(ImatrixMerge, argv);
      expect(run.stderr).toMatch(words);
      expect(run).toMatchObject({ code, stdout: "" });
    }
    expect(existsSync(out)).toBe(false);
    expect(readFileSync(taken).equals(before)).toBe(true);
  });
});

describe("imatrix inspect", () => {
  it("prints one file and two as text", async () => {
    const stack = fileOf("text.gguf", {
      w: [
        [1, 2, 3],
        [1, 40, 0],
      ],
      v: [[1], [0]],
      "esc\u001B[2J": [[1], [1]],
    });
    const one = await runCommand(ImatrixInspect, [stack]);
    expect(one).toMatchObject({ code: 0, stderr: "" });
    expect(one.stdout).toContain("w: 2 of 3 experts: 0 (1), 2 (0)");
    expect(one.stdout).not.toContain("\u001B");
    const two = await runCommand(ImatrixInspect, [stack, fileOf("text2.gguf", { w: [[1, 2, 3], [1]] })]);
    expect(two).toMatchObject({ code: 0, stderr: "" });
    expect(two.stdout).toMatch(/esc.*only in A/);
    expect(two.stdout).not.toContain("\u001B");
  });

  it("refuses what is none", async () => {
    const empty = join(folder, "empty.dat");
    writeFileSync(empty, "");
    for (const [argv, code, words] of [
      [["nowhere.gguf"], 2, /nowhere\.gguf: there is no such file/],
      [[await convertFixture("Q8_0")], 2, /expected an importance matrix/],
      [[empty], 1, /empty\.dat: ends inside the number of entries/],
      [[reference, empty], 1, /empty\.dat/],
      [[folder], 2, /is a folder/],
    ] as const) {
      const run = await runCommand(ImatrixInspect, argv);
      expect(run.stderr).toMatch(words);
      expect(run.stderr).not.toMatch(/^\s+at /m);
      expect(run).toMatchObject({ code, stdout: "" });
    }
  });
});

/** Numbers in a result that JSON has no words for. */
function notFinite(result: unknown): number[] {
  const found: number[] = [];
  JSON.stringify(result, (_, value: unknown) => {
    if (typeof value === "number" && !Number.isFinite(value)) found.push(value);
    return value;
  });
  return found;
}

describe("damaged importance matrices", () => {
  const small = new Map([
    ["blk.0.w.in_sum2", [1, 2, 3, 4, 0, 0]],
    ["blk.0.w.counts", [5, 6, 0]],
    ["v.in_sum2", [1]],
    ["v.counts", [1]],
  ]);
  const legacy = legacyBytes([
    { name: "blk.0.w", calls: 2, values: [1, 2, 3, 4, 5, 6] },
    { name: "v", calls: 1, values: [1] },
  ]);

  it.each([
    ["GGUF", readFileSync(writeFloats(join(folder, "sound.gguf"), small))],
    [".dat", legacy],
  ])("are refused or read, never more: %s", async (name, sound) => {
    const path = join(folder, `damaged${name}`);
    const out = join(folder, `from-damaged${name}`);
    const thrown = (error: unknown) => error;
    let refused = 0;
    await fc.assert(
      fc.asyncProperty(
        fc.array(fc.tuple(fc.nat(sound.length - 1), fc.integer({ min: 0, max: 255 })), { maxLength: 4 }),
        fc.option(fc.nat(sound.length)),
        async (edits, end) => {
          const bytes = Buffer.from(sound);
          for (const [at, byte] of edits) bytes[at] = byte;
          writeFileSync(path, bytes.subarray(0, end ?? undefined));
          const request = { files: [{ path, weight: 1 }], out, chunkTokens: 512, force: true };
          const error = await inspectImatrix(path).then(async (inspected) => {
            expect(notFinite(inspected)).toEqual([]);
            return mergeImatrices(request, new AbortController().signal).then(() => null, thrown);
          }, thrown);
          expect(error === null || error instanceof LapidaryError).toBe(true);
          if (error !== null) refused++;
        },
      ),
      { numRuns: 300 },
    );
    expect(refused).toBeGreaterThan(30);
  });
});
