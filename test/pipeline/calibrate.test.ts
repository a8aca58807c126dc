import { mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, expect, it } from "vitest";
import { openStore } from "../../calibration/statistics/store.js";
import { curvatureOf } from "../../calibration/statistics/curvature.js";
import { readImportance } from "../../formats/imatrix/read.js";
import { packageRoot } from "../../src/base/paths.js";
import { calibrate, type CalibrateRequest } from "../../src/pipeline/calibrate.js";
import { compareImatrices } from "../../src/pipeline/imatrix.js";
import { type Progress, silent } from "../../src/pipeline/progress.js";
import { statisticsFolders } from "../../src/pipeline/statistics-folders.js";

const nano = join(packageRoot, "fixtures", "nano-e");
const text = join(packageRoot, "fixtures", "text", "calibration.txt");
const reference = join(packageRoot, "fixtures", "reference", "imatrix.gguf");
let folder: string;

beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), "lapidary-calibrate-"));
});

afterAll(() => rm(folder, { recursive: true, force: true }));

function request(out: string, more: Partial<CalibrateRequest> = {}): CalibrateRequest {
  return {
    source: nano,
    sources: [text],
    out: join(folder, out),
    context: 128,
    windows: 12,
    mode: "raw",
    depth: "importance",
    threads: 2,
    memory: 2 ** 28,
    ...more,
  };
}

const { signal } = new AbortController();

it("keeps moments, gradients and an importance matrix near llama-imatrix's", async () => {
  const asked = request("whole", { depth: "gradients" });
  const report = await calibrate(asked, silent, signal);
  expect(report.text).toMatchObject({ windows: 12, tokens: 12 * 128, mode: "raw" });
  expect(report.starved).toEqual([]);

  const { inputs, gradients, imatrix } = statisticsFolders(asked.out);
  const store = await openStore(inputs);
  expect(store.complete).toBe(true);
  const step = await store.read(1);
  const attention = step.statistics.find(({ input }) => input === "layers.0.attention")!;
  const { moments, sumSquares } = attention;
  // The diagonal of the second moments is the sum of squares.
  for (const column of [0, 17, 255]) {
    expect(moments!.values[column * 257]).toBeCloseTo(
      sumSquares[column]!,
      -Math.log10(sumSquares[column]! * 1e-4),
    );
  }
  const back = await openStore(gradients);
  const last = await back.read(1);
  const curvature = curvatureOf(last, "layers.3.mlp.down_proj.weight")!;
  expect(curvature.gradientSquares).toHaveLength(256);
  expect(curvature.inputSquares).toHaveLength(1024);

  // A sixtieth of the text that llama-imatrix saw: near it, and not the same.
  const { tensors } = await compareImatrices(imatrix, reference);
  const alike = tensors.filter(({ likeness }) => (likeness?.correlation ?? 0) > 0.5);
  expect(alike).toHaveLength(32);
  const matrix = await readImportance(imatrix);
  expect(matrix).toMatchObject({ chunks: 12, chunkTokens: 128, datasets: [text] });
});

it("goes on behind the last whole step, and ends with the same numbers", async () => {
  const asked = request("resumed");
  const stop = new AbortController();
  const stopping = {
    ...silent,
    progress: ({ done, unit }: Progress) =>
      void (unit === "steps" && done > 3 && stop.abort(new Error("enough"))),
  };
  await expect(calibrate(asked, stopping, stop.signal)).rejects.toThrow("enough");
  const { inputs, imatrix } = statisticsFolders(asked.out);
  const before = (await openStore(inputs)).done.length;
  expect(before).toBeGreaterThan(0);
  expect(before).toBeLessThan(6);
  await calibrate(asked, silent, signal);
  const whole = request("whole-again");
  await calibrate(whole, silent, signal);
  const [a, b] = await Promise.all([readFile(imatrix), readFile(statisticsFolders(whole.out).imatrix)]);
  expect(a.equals(b)).toBe(true);
});

it("refuses statistics of other settings, text that is measured on, and what is no checkpoint", async () => {
  await expect(calibrate(request("whole", { context: 64 }), silent, signal)).rejects.toMatchObject({
    exitCode: 2,
  });
  await expect(calibrate(request("reused", { evaluation: text }), silent, signal)).rejects.toMatchObject({
    code: "text-reused",
    exitCode: 2,
  });
  await expect(
    calibrate(request("none", { source: join(folder, "nothing") }), silent, signal),
  ).rejects.toMatchObject({ exitCode: 2 });
  const short = join(folder, "short.txt");
  await writeFile(short, "Call me Ishmael.");
  await expect(calibrate(request("short", { sources: [short] }), silent, signal)).rejects.toMatchObject({
    code: "text-short",
    exitCode: 2,
  });
});
