import { createHash } from "node:crypto";
import { readFileSync } from "node:fs";
import { copyFile, mkdir, readFile, stat, statfs, truncate, utimes, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { describe, expect, it } from "vitest";
import { openGguf } from "../../formats/gguf/read.js";
import { packageRoot } from "../../src/base/paths.js";
import { planGgufSource } from "../../src/plan/gguf.js";
import type { Plan } from "../../src/plan/plan.js";
import { layoutPlan, requantizedMetadata } from "../../src/quantize/layout.js";
import { type QuantizeProgress, runPlan, type RunPlanOptions } from "../../src/quantize/quantize.js";
import { makeCheckpoint, NANO } from "../support/checkpoints.js";
import { filesIn, prepare, scratch } from "./nano.js";

interface Reference {
  readonly tensors: readonly {
    name: string;
    type: string;
    ne: number[];
    offset: number;
    bytes: number;
    sha256: string;
  }[];
}

const root = scratch();
const memoryBytes = 2 ** 26;

/** A new folder for one test. */
async function place(name: string): Promise<string> {
  const folder = join(root, name);
  await mkdir(folder);
  return folder;
}

function run(
  output: string,
  prepared: Pick<RunPlanOptions, "plan" | "metadata">,
  options: Partial<RunPlanOptions> = {},
) {
  return runPlan({ ...prepared, output, threads: 2, memoryBytes, ...options });
}

describe("files", () => {
  it.each(["bf16", "f16", "q8_0"])(
    "%s: every tensor is llama.cpp's own, byte for byte and at its offset",
    async (mix) => {
      const reference = JSON.parse(
        readFileSync(join(packageRoot, "fixtures", "reference", `convert-${mix}.json`), "utf8"),
      ) as Reference;
      const folder = await place(`reference-${mix}`);
      const output = join(folder, "nano.gguf");
      const prepared = await prepare(NANO, { mix, matchConverter: true });
      const expectedSize = layoutPlan(prepared.plan, output, prepared.metadata).size;
      const { bytes, resumed } = await run(output, prepared);
      const file = await readFile(output);
      expect([bytes, expectedSize, resumed]).toEqual([file.length, file.length, 0]);
      const tensors = (await openGguf(output)).tensors.map(({ name, type, ne, offset, byteLength }) => ({
        name,
        type,
        ne: [...ne],
        offset,
        bytes: byteLength,
        sha256: createHash("sha256")
          .update(file.subarray(offset, offset + byteLength))
          .digest("hex"),
      }));
      expect(tensors).toEqual(reference.tensors);
      expect(await filesIn(folder)).toEqual(["nano.gguf"]);
    },
  );

  it("from a GGUF have exactly the sizes of llama-quantize's", async () => {
    const folder = await place("requantized");
    const source = join(folder, "source.gguf");
    await run(source, await prepare(NANO, { mix: "BF16", matchConverter: true }));
    const model = await openGguf(source);
    const figures = readFileSync(join(packageRoot, "fixtures", "reference", "figures.txt"), "utf8");
    for (const mix of ["Q8_0", "Q6_K", "Q4_0"]) {
      const plan = planGgufSource({ model, mix, keepUnusedKv: true });
      const output = join(folder, `${mix}.gguf`);
      const { bytes } = await run(output, { plan, metadata: requantizedMetadata(model.metadata, plan) });
      expect(bytes).toBe(Number(new RegExp(`^${mix} plain bytes (\\d+)`, "m").exec(figures)?.[1]));
      const { metadata } = await openGguf(output);
      expect([...metadata.keys()].slice(-2)).toEqual(["general.quantization_version", "general.file_type"]);
      expect(metadata.get("general.file_type")?.value).toBe(plan.fileType);
      expect(metadata.size).toBe(model.metadata.size);
    }
  });

  it("of a split model have llama.cpp's names and hold the same tensors", async () => {
    const folder = await place("split");
    const prepared = await prepare(NANO, { mix: "Q8_0" });
    await run(join(folder, "whole.gguf"), prepared);
    const { size } = layoutPlan(prepared.plan, join(folder, "parts.gguf"), prepared.metadata, {
      splitMaxBytes: 2 ** 20,
    });
    const { paths, bytes } = await run(join(folder, "parts.gguf"), prepared, { splitMaxBytes: 2 ** 20 });
    const sizes = await Promise.all(paths.map(async (path) => (await stat(path)).size));
    expect(paths.length).toBeGreaterThan(3);
    expect(sizes.reduce((sum, each) => sum + each, 0)).toBe(size);
    expect(bytes).toBe(size);
    expect(await filesIn(folder)).toEqual([
      ...paths.map((path) => path.slice(folder.length + 1)),
      "whole.gguf",
    ]);
    const data = async (path: string): Promise<string[]> => {
      const model = await openGguf(path);
      const parts = await Promise.all(model.paths.map((part) => readFile(part)));
      return model.tensors.map(({ name, part, offset, byteLength }) => {
        const bytes = parts[part]?.subarray(offset, offset + byteLength) ?? Buffer.alloc(0);
        return `${name} ${createHash("sha256").update(bytes).digest("hex")}`;
      });
    };
    expect(await data(paths[0] ?? "")).toEqual(await data(join(folder, "whole.gguf")));
  });

  it("do not depend on the number of threads or the memory", async () => {
    const folder = await place("same");
    const source = join(folder, "model");
    await makeCheckpoint(source, { kind: "moe", hidden: 512, shards: 3 });
    const prepared = await prepare(source, { mix: "Q4_0" });
    await run(join(folder, "a.gguf"), prepared, { threads: 1, memoryBytes: 2 ** 24 });
    await run(join(folder, "b.gguf"), prepared, { threads: 3, memoryBytes: 2 ** 30 });
    const [a, b] = await Promise.all(["a.gguf", "b.gguf"].map((file) => readFile(join(folder, file))));
    expect(a?.equals(b ?? Buffer.alloc(0))).toBe(true);
  });
});

describe("progress", () => {
  it("counts up to all bytes", async () => {
    const folder = await place("progress");
    const prepared = await prepare(NANO, { mix: "Q4_0" });
    const reports: QuantizeProgress[] = [];
    await run(join(folder, "a.gguf"), prepared, { onProgress: (progress) => reports.push(progress) });
    const total = (tensors: Plan["tensors"]): number =>
      tensors.reduce((sum, { origin }) => sum + (origin.kind === "file" ? origin.byteLength : 0), 0);
    const last = reports.at(-1);
    expect(last).toMatchObject({
      bytesRead: total(prepared.plan.tensors),
      totalBytes: total(prepared.plan.tensors),
      bytesWritten: prepared.plan.byteLength,
      tensor: null,
      eta: 0,
    });
    expect(reports.map(({ bytesRead }) => bytesRead)).toEqual(
      reports.map(({ bytesRead }) => bytesRead).toSorted((a, b) => a - b),
    );
  });
});

describe("what is refused", () => {
  it("a value that is not finite, with its place, leaving nothing behind", async () => {
    const folder = await place("nan");
    const source = join(folder, "source");
    await makeCheckpoint(source);
    const prepared = await prepare(source, { mix: "Q8_0" });
    const tensor = prepared.plan.tensors.find(({ name }) => name === "blk.1.ffn_down.weight");
    const origin = tensor?.origin;
    const row = tensor?.ne[0] ?? 0;
    const path = join(source, "model.safetensors");
    const bytes = await readFile(path);
    bytes.writeUInt16LE(0x7fc0, (origin?.kind === "file" ? origin.offset : 0) + 2 * (5 * row + 17));
    await writeFile(path, bytes);
    await expect(run(join(folder, "out.gguf"), prepared)).rejects.toMatchObject({
      code: "non-finite",
      message: expect.stringContaining("tensor blk.1.ffn_down.weight") as unknown,
    });
    await expect(run(join(folder, "out.gguf"), prepared)).rejects.toThrow(/row 5, column 17 is NaN/);
    expect(await filesIn(folder)).toEqual(["source"]);
  });

  it("a disk that is too small, before anything is written", async () => {
    const folder = await place("space");
    const input = join(folder, "huge");
    await writeFile(input, "");
    const { bavail, bsize } = await statfs(folder);
    const rows = Math.ceil((bavail * bsize) / 4096) + 2 ** 24;
    const plan: Plan = {
      mix: "BF16",
      rules: "llama-quantize",
      fileType: 32,
      tensors: [
        {
          name: "t.weight",
          ne: [2048, rows],
          origin: { kind: "file", name: "t", path: input, offset: 0, byteLength: rows * 4096, type: "BF16" },
          type: "BF16",
          values: rows * 2048,
          byteLength: rows * 4096,
          method: "ggml",
        },
      ],
      values: rows * 2048,
      byteLength: rows * 4096,
      bitsPerWeight: 16,
      shares: [],
      method: "ggml",
      importance: null,
      withoutImportance: [],
      lattices: [],
      roundedLattices: [],
      hash: "",
    };
    await expect(run(join(folder, "out.gguf"), { plan, metadata: [] })).rejects.toMatchObject({
      code: "disk-too-small",
      message: expect.stringMatching(new RegExp(`takes ${rows * 4096 + 96} bytes`)) as unknown,
    });
    expect(await filesIn(folder)).toEqual(["huge"]);
  });

  it("an output that is there, unless it may be replaced", async () => {
    const folder = await place("there");
    const output = join(folder, "out.gguf");
    await writeFile(output, "precious");
    const prepared = await prepare(NANO, { mix: "Q4_0" });
    await expect(run(output, prepared)).rejects.toMatchObject({ code: "output-exists", exitCode: 2 });
    expect(await readFile(output, "utf8")).toBe("precious");
    await run(output, prepared, { overwrite: true });
    expect((await openGguf(output)).tensors).toHaveLength(prepared.plan.tensors.length);
    await expect(run(folder, prepared)).rejects.toMatchObject({ code: "output-kind" });
    await expect(run(join(folder, "no", "out.gguf"), prepared)).rejects.toMatchObject({
      code: "output-folder",
    });
  });

  it("an output that is an input", async () => {
    const folder = await place("self");
    const source = join(folder, "a.gguf");
    await run(source, await prepare(NANO, { mix: "BF16" }));
    const model = await openGguf(source);
    const plan = planGgufSource({ model, mix: "Q8_0", keepUnusedKv: true });
    const before = await readFile(source);
    await expect(
      run(source, { plan, metadata: requantizedMetadata(model.metadata, plan) }, { overwrite: true }),
    ).rejects.toMatchObject({ code: "output-is-input", exitCode: 2 });
    expect((await readFile(source)).equals(before)).toBe(true);
  });

  it("an input that changes while it is read", async () => {
    const folder = await place("changing");
    const source = join(folder, "source");
    await makeCheckpoint(source);
    const prepared = await prepare(source, { mix: "Q8_0" });
    let touched: Promise<void> | undefined;
    const touch = (): void => {
      touched ??= utimes(join(source, "model.safetensors"), 1, 1);
    };
    await expect(run(join(folder, "out.gguf"), prepared, { onProgress: touch })).rejects.toMatchObject({
      code: "input-changed",
    });
    await touched;
    expect(await filesIn(folder)).toEqual(["source"]);
  });

  it("a memory ceiling that nothing fits under, leaving nothing behind", async () => {
    const folder = await place("memory");
    const prepared = await prepare(NANO, { mix: "Q4_0" });
    await expect(run(join(folder, "out.gguf"), prepared, { memoryBytes: 2 ** 20 })).rejects.toMatchObject({
      code: "memory-too-small",
      exitCode: 2,
    });
    expect(await filesIn(folder)).toEqual([]);
  });

  it("a shard that was cut since its header was read", async () => {
    const folder = await place("cut");
    await mkdir(join(folder, "source"));
    for (const file of [
      "config.json",
      "generation_config.json",
      "tokenizer.json",
      "tokenizer_config.json",
      "chat_template.jinja",
      "model.safetensors",
    ])
      await copyFile(join(NANO, file), join(folder, "source", file));
    const prepared = await prepare(join(folder, "source"), { mix: "Q4_0" });
    await truncate(join(folder, "source", "model.safetensors"), 2_000_000);
    await expect(run(join(folder, "out.gguf"), prepared)).rejects.toMatchObject({ code: "input-truncated" });
  });
});
