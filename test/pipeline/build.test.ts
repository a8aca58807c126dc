import { existsSync, readdirSync, readFileSync, statSync, utimesSync, writeFileSync } from "node:fs";
import { hostname } from "node:os";
import { join } from "node:path";
import { describe, expect, it } from "vitest";
import { type BuildRequest, build } from "../../src/pipeline/build.js";
import { convert } from "../../src/pipeline/convert.js";
import { hashFile } from "../../src/pipeline/hash.js";
import type { Manifest } from "../../src/pipeline/manifest.js";
import { type Reporter, silent } from "../../src/pipeline/progress.js";
import { convertRequest, nanoCheckpoint, scratchFolder } from "../support/convert.js";
import { mountTmpfs } from "../support/tmpfs.js";

/** A few times what the windows need; all of it would be cut into tokens for every model anew. */
const text = join(scratchFolder(), "text.txt");
writeFileSync(text, readFileSync("fixtures/text/eval.txt", "utf8").slice(0, 20_000));

function request(changes: Partial<BuildRequest> = {}): BuildRequest {
  return {
    ...convertRequest({ types: ["Q8_0", "Q4_0"] }),
    text,
    mode: "auto",
    context: 128,
    chunks: 3,
    gates: {},
    promptTokens: 32,
    generationTokens: 4,
    repetitions: 2,
    threads: 1,
    ...changes,
  };
}

const never = new AbortController().signal;

const run = (changes: Partial<BuildRequest>, reporter = silent) => build(request(changes), reporter, never);

function manifestOf(folder: string): Manifest {
  return JSON.parse(readFileSync(join(folder, "manifest.json"), "utf8")) as Manifest;
}

/** Notes which jobs were run. */
function recorder(): Reporter & { readonly jobs: string[] } {
  const jobs: string[] = [];
  return { ...silent, jobs, start: (label) => void jobs.push(label.replace(/ .*/, "")) };
}

describe("build", () => {
  it("writes files, measures them, and puts all of it into the manifest", async () => {
    const out = scratchFolder();
    const imatrix = "fixtures/reference/imatrix.gguf";
    const { manifest, missed } = await run({ out, imatrix });
    expect(missed).toEqual([]);
    expect(manifestOf(out)).toEqual(manifest);
    expect(readdirSync(out).toSorted()).toEqual(["manifest.json", "nano-e-Q4_0.gguf", "nano-e-Q8_0.gguf"]);
    expect(manifest.complete).toBe(true);
    expect(manifest.versions.engine).toMatch(/llama\.cpp/);
    expect(manifest.artifacts.map(({ type }) => type)).toEqual(["Q8_0", "Q4_0"]);
    for (const artifact of manifest.artifacts) {
      const [file] = artifact.files;
      expect(await hashFile(join(out, file?.file ?? ""))).toEqual(file);
      expect(artifact.source.files).toContainEqual(await hashFile(join(nanoCheckpoint, "model.safetensors")));
      expect(artifact).toMatchObject({ method: "ggml", importance: await hashFile(imatrix) });
      expect(artifact.reference).toMatchObject({ type: "F32", source: "nano-e" });
      expect(artifact.tensors).toHaveLength(68);
      expect(artifact.verification?.windows).toMatchObject({ context: 128, windows: 3, scored: 3 * 63 });
      expect(artifact.verification?.longWindows?.context).toBe(256);
      expect(artifact.throughput?.speeds.map(({ kind, tokens }) => [kind, tokens])).toEqual([
        ["prompt", 32],
        ["generation", 4],
      ]);
      expect(artifact.throughput?.peakMemory).toBeGreaterThan(artifact.bytes);
    }
    const [eight, four] = manifest.artifacts.map(
      ({ verification }) => verification?.windows.comparison?.divergence.value ?? 0,
    );
    expect(eight).toBeGreaterThan(0);
    expect(four).toBeGreaterThan((eight ?? 0) * 10);
  });

  it("counts what the manifest vouches for as done, and measures again only what changed", async () => {
    const small = { out: scratchFolder(), types: ["Q8_0"], repetitions: 1 };
    await run(small);
    const path = join(small.out, "nano-e-Q8_0.gguf");
    const long = new Date(1_700_000_000_000);
    utimesSync(path, long, long);
    const again = recorder();
    const { manifest } = await run(small, again);
    expect(manifest.complete).toBe(true);
    expect(statSync(path).mtime).toEqual(long);
    expect(again.jobs).toEqual(["hash", "hash"]);

    const settings = recorder();
    await run({ ...small, chunks: 2 }, settings);
    expect(statSync(path).mtime).toEqual(long);
    expect(settings.jobs.filter((job) => job === "verify")).toHaveLength(1);
  });

  it("refuses a file that is not what the manifest says, unless it is told to replace it", async () => {
    const small = { out: scratchFolder(), types: ["Q8_0"], chunks: 1, repetitions: 1 };
    const { out } = small;
    await run(small);
    const path = join(out, "nano-e-Q8_0.gguf");
    const bytes = readFileSync(path);
    const spoiled = Buffer.from(bytes);
    spoiled[spoiled.length - 1]! ^= 1;
    writeFileSync(path, spoiled);
    await expect(run(small)).rejects.toMatchObject({ exitCode: 2 });
    expect(readFileSync(path).equals(spoiled)).toBe(true);
    await run({ ...small, force: true });
    expect(readFileSync(path).equals(bytes)).toBe(true);
  });

  it("writes and measures everything before it reports a missed gate", async () => {
    const out = scratchFolder();
    const { manifest, missed } = await run({
      out,
      chunks: 1,
      repetitions: 1,
      gates: { maxDivergence: 0.0005 },
    });
    expect(manifest.complete).toBe(true);
    expect([...new Set(missed.map(({ file }) => file))]).toEqual([join(out, "nano-e-Q4_0.gguf")]);
  });

  it("goes on after it was stopped between two types", async () => {
    const small = { out: scratchFolder(), chunks: 1, repetitions: 1 };
    const stop = new AbortController();
    const stopping: Reporter = {
      ...silent,
      start: (label) => {
        if (label === "nano-e-Q4_0.gguf") stop.abort(new Error("stop"));
      },
    };
    await expect(build(request(small), stopping, stop.signal)).rejects.toThrow("stop");
    expect(readdirSync(small.out)).toContain("nano-e-Q8_0.gguf");
    const again = recorder();
    const { manifest } = await run(small, again);
    expect(again.jobs).not.toContain("nano-e-Q8_0.gguf");
    expect(manifest.artifacts).toHaveLength(2);
    expect(readdirSync(small.out).toSorted()).toEqual([
      "manifest.json",
      "nano-e-Q4_0.gguf",
      "nano-e-Q8_0.gguf",
    ]);
  });

  it("finds a text that is too short for a window before it writes anything", async () => {
    const out = scratchFolder();
    const text = join(scratchFolder(), "short.txt");
    writeFileSync(text, "Twelve words are not enough to fill a window of so many tokens.\n".repeat(3));
    await expect(run({ out, text })).rejects.toMatchObject({ code: "text-short", exitCode: 2 });
    expect(readdirSync(out)).toEqual([]);
    // Judged by tokens: the same text fills smaller windows.
    const { manifest } = await run({ out, text, context: 16, types: ["Q8_0"] });
    expect(manifest.artifacts[0]?.verification?.windows.windows).toBe(3);
  });

  it("finds a disk that is too small for files and reference together before it writes anything", async (context) => {
    const { bytes } = (await convert(convertRequest({ types: ["Q8_0"], dryRun: true }), silent, never))[0]!;
    // Room for the file and for the reference (F32, four times as large), each alone.
    const disk = mountTmpfs(Math.round(bytes * 4.2));
    if (disk === undefined) {
      context.skip();
      return;
    }
    await expect(run({ out: disk.folder, types: ["Q8_0"] })).rejects.toMatchObject({
      code: "disk-too-small",
      exitCode: 1,
    });
    expect(readdirSync(disk.folder)).toEqual([]);
  });

  it("keeps away from a folder that another build is at", async () => {
    const out = scratchFolder();
    const holder = { host: hostname(), pid: process.ppid, started: null };
    writeFileSync(join(out, ".lapidary.lock"), JSON.stringify(holder));
    await expect(run({ out })).rejects.toMatchObject({ code: "in-use", exitCode: 2 });
    expect(readdirSync(out)).toEqual([".lapidary.lock"]);
  });

  it("goes on after it was stopped, from the reference that it left", async () => {
    const small = { out: scratchFolder(), types: ["Q8_0"], chunks: 1, repetitions: 1 };
    const stop = new AbortController();
    const stopping: Reporter = {
      ...silent,
      start: (label) => {
        if (label.startsWith("bench")) stop.abort(new Error("stop"));
      },
    };
    await expect(build(request(small), stopping, stop.signal)).rejects.toThrow("stop");
    expect(manifestOf(small.out).complete).toBe(false);
    const again = recorder();
    const { manifest } = await run(small, again);
    expect(manifest.complete).toBe(true);
    expect(again.jobs).not.toContain("nano-e-Q8_0.gguf");
    expect(again.jobs).not.toContain("nano-e-F32.gguf");
    expect(existsSync(join(small.out, ".lapidary"))).toBe(false);
  });
});
