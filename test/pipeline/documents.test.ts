import { execFile } from "node:child_process";
import { readdirSync, readFileSync, symlinkSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { promisify } from "node:util";
import { beforeAll, describe, expect, test } from "vitest";
import { packageRoot } from "../../src/base/paths.js";
import { nbitsRow } from "../../src/blocks/nbits/types.js";
import { bench } from "../../src/pipeline/bench.js";
import { exportOnnx, type ExportReport } from "../../src/pipeline/export.js";
import { compareImatrices, inspectImatrix, mergeImatrices } from "../../src/pipeline/imatrix.js";
import { silent } from "../../src/pipeline/progress.js";
import { verify } from "../../src/pipeline/verify.js";
import { DTYPES, type Group, parseForm } from "../../src/plan/onnx/dtypes.js";
import { nanoCheckpoint, scratchFolder } from "../support/convert.js";
import { writeFloats } from "../support/imatrix.js";

const run = promisify(execFile);
const never = new AbortController().signal;

function read(name: string): string {
  return readFileSync(join(packageRoot, "docs", name), "utf8");
}

/** Cells of the rows of a table in docs/onnx.md, by the first cell of its head. */
function table(head: string): string[][] {
  const [, rest = ""] = read("onnx.md").split(`\n| ${head} |`);
  const lines = rest.split("\n").slice(1);
  const end = lines.findIndex((line) => !line.startsWith("|"));
  return lines.slice(1, end).map((line) =>
    line
      .split("|")
      .slice(1, -1)
      .map((cell) => cell.trim().replaceAll("`", "")),
  );
}

/** The weights of each column of the table of dtypes. */
const COLUMNS: readonly (readonly Exclude<Group, "exact">[])[] = [
  ["attention"],
  ["mlp", "experts"],
  ["per_layer"],
  ["head"],
  ["embedding"],
  ["ple_table"],
  ["ple_projection"],
];

const BLOCKS = [16, 32, 64, 128, 256];

/** The rest of a row of the table of forms. */
function describeForm(name: string): (string | number)[] {
  const form = parseForm(name, 32, "the table");
  if (form.kind === "float") {
    const bytes = form.type === "FLOAT" ? 4 : 2;
    return [8 * bytes, "", ...BLOCKS.map(() => bytes)];
  }
  // Zero points of a row take whole bytes.
  const values = 2 ** 16;
  const bytes = BLOCKS.map((block) => {
    const { codes, scales, zeroPoints } = nbitsRow({ ...form, block }, values);
    return Number(((codes + scales + zeroPoints) / values).toFixed(4));
  });
  return [form.bits, form.zeroPoints ? "stored" : 2 ** (form.bits - 1), ...bytes];
}

describe("docs/onnx.md", () => {
  test("has the dtypes of the code", () => {
    expect(new Set(COLUMNS.flat())).toEqual(new Set(Object.keys(DTYPES.fp32.forms)));
    const rows = table("dtype").map(([dtype, suffix, computes, ...forms]) => [
      dtype,
      suffix,
      computes,
      ...forms.flatMap((form, column) => COLUMNS[column]!.map(() => form)),
    ]);
    expect(rows).toEqual(
      Object.entries(DTYPES).map(([dtype, { suffix, internal, forms }]) => [
        dtype,
        suffix,
        internal === "FLOAT" ? "fp32" : "fp16",
        ...COLUMNS.flat().map((group) => forms[group]),
      ]),
    );
  });

  test("has the sizes of the code", () => {
    const rows = table("form");
    const used = Object.values(DTYPES).flatMap(({ forms }) => Object.values(forms));
    expect(rows.map(([form]) => form)).toEqual(expect.arrayContaining([...new Set(used)]));
    const number = (cell: string): string | number => (/^[\d.]+$/.test(cell) ? Number(cell) : cell);
    expect(rows.map(([name = "", ...cells]) => [name, ...cells.map((cell) => number(cell))])).toEqual(
      rows.map(([name = ""]) => [name, ...describeForm(name)]),
    );
  });

  test("has codes of messages that the code has", () => {
    const sources = ["src", "formats"].flatMap((room) =>
      readdirSync(join(packageRoot, room), { recursive: true, encoding: "utf8" })
        .filter((name) => name.endsWith(".ts"))
        .map((name) => readFileSync(join(packageRoot, room, name), "utf8")),
    );
    const codes = table("code").flatMap(([cell = ""]) => cell.split(", "));
    expect(codes.length).toBeGreaterThan(10);
    expect(codes.filter((code) => !sources.some((source) => source.includes(`"${code}"`)))).toEqual([]);
  });
});

/** Names and types of what is in a JSON value; of a list its first element stands for all, and null for anything. */
function shapeOf(value: unknown): unknown {
  if (Array.isArray(value)) return value.length === 0 ? null : [shapeOf(value[0])];
  if (typeof value !== "object" || value === null) return value === null ? null : typeof value;
  return Object.fromEntries(Object.entries(value).map(([name, each]) => [name, shapeOf(each)]));
}

/** A shape without what is null in another one. */
function without(shape: unknown, other: unknown): unknown {
  if (shape === null || other === null) return null;
  if (Array.isArray(shape) && Array.isArray(other)) return [without(shape[0], other[0])];
  if (typeof shape !== "object" || typeof other !== "object") return shape;
  const others = other as Readonly<Record<string, unknown>>;
  return Object.fromEntries(
    Object.entries(shape).map(([name, each]) => [name, name in others ? without(each, others[name]) : each]),
  );
}

/** The first example of JSON in docs/json.md under a heading. */
function exampleOf(heading: string): unknown {
  const [, section = ""] = read("json.md").split(`\n${heading}\n`);
  return JSON.parse(/```json\n(.*?)```/s.exec(section)?.[1] ?? "null") as unknown;
}

function expectShape(heading: string, report: unknown): void {
  const [known, found] = [shapeOf(exampleOf(heading)), shapeOf(report)];
  expect(without(known, found)).toEqual(without(found, known));
}

describe("a package", () => {
  const folder = scratchFolder();
  const out = join(folder, "gemma-4-E2B-it-ONNX");
  /** Some windows are enough to see what a measurement looks like. */
  const short = join(folder, "short.txt");
  let report: ExportReport;

  const make = (dtype: string): Promise<ExportReport> =>
    exportOnnx(
      {
        source: nanoCheckpoint,
        out,
        dtypes: [dtype],
        layout: "transformers.js",
        rangeText: short,
        threads: 2,
        memory: 256 * 1024 ** 2,
        dryRun: false,
        force: false,
      },
      silent,
      never,
    );

  beforeAll(async () => {
    symlinkSync(join(packageRoot, "node_modules"), join(folder, "node_modules"));
    writeFileSync(short, readFileSync("fixtures/text/eval.txt", "utf8").slice(0, 4000));
    report = await make("q4");
  });

  test("is reported as docs/json.md says", async () => {
    expectShape("### convert --to onnx", report);
    expectShape("### convert --to onnx", await make("decoder_model_merged=q4f16"));
  });

  test("is measured as docs/json.md says", async () => {
    const decoder = join(out, "onnx", "decoder_model_merged_q4.onnx");
    const verified = await verify(
      {
        files: [decoder],
        reference: null,
        text: short,
        mode: "raw",
        context: 64,
        chunks: 1,
        gates: {},
        accuracyLevels: [4],
        threads: 2,
        memory: 256 * 1024 ** 2,
      },
      silent,
      never,
    );
    const [entry] = verified.files;
    expect(entry?.accuracyLevel).toBe(4);
    expectShape("## verify", verified);
    const request = { files: [decoder], promptTokens: 8, generationTokens: 2, repetitions: 1, threads: 2 };
    expectShape("## bench", await bench({ ...request, accuracyLevels: [4] }, silent, never));
  });

  /** What a sample of docs/onnx.md prints, beside a package of the name that it has there. */
  async function output(loader: string): Promise<string> {
    const samples = [...read("onnx.md").matchAll(/```js\n(.*?)```/gs)].map(([, code = ""]) => code);
    const path = join(folder, "sample.mjs");
    writeFileSync(path, samples.find((code) => code.includes(`from "${loader}"`)) ?? "");
    const { stdout } = await run(process.execPath, [path], { cwd: folder });
    return stdout.trim();
  }

  test("answers in transformers.js as docs/onnx.md shows", async () => {
    expect(await output("@huggingface/transformers")).not.toBe("");
  });

  test("answers in ONNX Runtime as docs/onnx.md shows", async () => {
    const tokens = (await output("onnxruntime-node")).split("\n").map(Number);
    expect(tokens).toHaveLength(16);
    expect(tokens.filter((token) => !(Number.isInteger(token) && token >= 0 && token < 1024))).toEqual([]);
  });
});

describe("an importance matrix", () => {
  test("is reported as docs/json.md says", async () => {
    const lists = {
      "blk.1.w.in_sum2": [1, 2, 3, 4],
      "blk.1.w.counts": [5, 0],
      "blk.0.w.in_sum2": [1, 1, 1, 1],
    };
    const all = { ...lists, "blk.0.w.counts": [2, 2], "v.in_sum2": [1], "v.counts": [1] };
    const path = writeFloats(join(scratchFolder(), "all.gguf"), new Map(Object.entries(all)));
    const other = writeFloats(
      join(scratchFolder(), "other.gguf"),
      new Map(Object.entries({ ...lists, "blk.0.w.counts": [2, 2] })),
    );
    expectShape("## imatrix inspect", await inspectImatrix(path));
    expectShape("### imatrix inspect A B", await compareImatrices(path, other));
    const files = [path, other].map((path) => ({ path, weight: 1 }));
    const out = join(scratchFolder(), "merged.gguf");
    const report = await mergeImatrices({ files, out, chunkTokens: undefined, force: false }, never);
    expect(report.partial).toHaveLength(1);
    expectShape("## imatrix merge", report);
  });
});
