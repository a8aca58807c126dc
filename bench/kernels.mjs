// Speed of the kernels beside ggml's own encoders, one thread, the same normal values, in one run.
//
//   npm run build && node bench/kernels.mjs [--rounds N] [--only TYPE,…] [--from F32,F16,BF16] [--json]
//
// Every type is encoded without an importance and, where it heeds one, with one. Rounds of ours and ggml's
// alternate, so a change in the machine's load meets both; medians of processor time are printed in MB of float32
// values a second (BF16 input is half of that in bytes). Outputs are compared first.
//
// ggml's calls run on a thread of koffi's pool. Its library is SSE code, and on the thread that ran JavaScript or
// WebAssembly before (AVX code) it was seen to take up to three times as long: Q6_K 43 in place of 130 MB/s.

import { existsSync } from "node:fs";
import { createRequire } from "node:module";
import { join } from "node:path";
import { parseArgs, promisify } from "node:util";
import koffi from "koffi";
import { encodable } from "../dist/src/blocks/encode/encode.js";
import {
  bfloatsToFloats,
  floatsToBfloats,
  floatsToHalves,
  halvesToFloats,
} from "../dist/src/blocks/floats.js";
import { Kernels } from "../dist/src/blocks/kernels/kernels.js";
import { compileKernels } from "../dist/src/blocks/kernels/load.js";
import { blockType, rowBytes } from "../dist/src/blocks/table.js";

const { values: flags } = parseArgs({
  options: {
    rounds: { type: "string", default: "9" },
    only: { type: "string", default: encodable.join(",") },
    from: { type: "string", default: "BF16" },
    json: { type: "boolean", default: false },
  },
});
const ROW = 4096;
const VALUES = 2 ** 20;
const widths = { F32: 4, F16: 2, BF16: 2 };
/** ggml ends the process when these are asked for without an importance. */
const needy = new Set(["IQ1_S", "IQ1_M", "IQ2_XXS", "IQ2_XS"]);

function openGgml() {
  if (process.platform !== "linux" || process.arch !== "x64") return undefined;
  const path = (createRequire(import.meta.url).resolve.paths("@node-llama-cpp/linux-x64") ?? [])
    .map((folder) => join(folder, "@node-llama-cpp/linux-x64/bins/linux-x64/libggml-base.so"))
    .find((candidate) => existsSync(candidate));
  if (path === undefined) return undefined;
  return koffi
    .load(path)
    .func("size_t ggml_quantize_chunk(int, const float *, void *, int64_t, int64_t, int64_t, const float *)");
}

/** Normal values from a fixed seed, with the spread of a trained matrix. */
function normalValues(count, scale) {
  let state = 1;
  const uniform = () => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    return (state + 0.5) / 2 ** 32;
  };
  return Float32Array.from(
    { length: count },
    () => scale * Math.sqrt(-2 * Math.log(uniform())) * Math.cos(2 * Math.PI * uniform()),
  );
}

/** The values as a source type stores them, and what they are after that rounding. */
function asSource(source, values) {
  const bytes = new Uint8Array(values.length * widths[source]);
  const rounded = values.slice();
  if (source === "F32") bytes.set(new Uint8Array(values.buffer));
  if (source === "F16") {
    floatsToHalves(values, bytes);
    halvesToFloats(bytes, rounded);
  }
  if (source === "BF16") {
    floatsToBfloats(values, bytes);
    bfloatsToFloats(bytes, rounded);
  }
  return { bytes, rounded };
}

/** MB of float32 a second of this process's time; nothing else runs in it. */
async function speed(count, work) {
  const before = process.cpuUsage();
  await work();
  const { user, system } = process.cpuUsage(before);
  return (count * 4) / (user + system);
}

/** Rows that take some 30 ms. */
async function fitting(work) {
  let count = ROW;
  while (count < VALUES) {
    const start = performance.now();
    await work(count);
    if (performance.now() - start > 15) break;
    count *= 2;
  }
  return count;
}

function median(numbers) {
  return numbers.toSorted((a, b) => a - b)[numbers.length >> 1];
}

const quantizeChunk = openGgml();
const quantizeAsync = quantizeChunk && promisify(quantizeChunk.async);
const kernels = new Kernels(await compileKernels(), VALUES);
const values = normalValues(VALUES, 0.02);
const importance = normalValues(ROW, 1).map((value) => value * value);
const results = [];

/** One line of the table. */
async function compare(source, target, rounded, given) {
  const ours = (count) => {
    if (kernels.convert(source, target, count, given) >= 0) throw new Error(`${target} refuses the values`);
  };
  const out = new Uint8Array(rowBytes(target, VALUES));
  const theirs = (count) =>
    quantizeAsync(blockType(target).id, rounded, out, 0n, BigInt(count / ROW), BigInt(ROW), given ?? null);
  const count = await fitting(ours);
  // To float32 ggml only copies; equal types ours only checks.
  const compared =
    quantizeChunk !== undefined &&
    target !== "F32" &&
    source !== target &&
    (given !== undefined || !needy.has(target));
  let theirCount = ROW;
  if (compared) {
    theirCount = await fitting(theirs);
    const both = Math.min(count, theirCount);
    ours(both);
    await theirs(both);
    if (!kernels.output.every((byte, i) => byte === out[i])) {
      throw new Error(`${source} to ${target}: the bytes differ from ggml's`);
    }
  }
  const speeds = { ours: [], theirs: [] };
  for (let round = 0; round < Number(flags.rounds); round++) {
    speeds.ours.push(await speed(count, () => ours(count)));
    if (compared) speeds.theirs.push(await speed(theirCount, () => theirs(theirCount)));
  }
  const own = median(speeds.ours);
  const other = compared ? median(speeds.theirs) : null;
  return { source, target, importance: given !== undefined, ours: own, ggml: other };
}

if (!flags.json) {
  process.stdout.write("source  target   importance     ours     ggml    ratio   (MB of float32 a second)\n");
}
for (const source of flags.from.split(",")) {
  const { bytes, rounded } = asSource(source, values);
  kernels.input.set(bytes);
  for (const target of flags.only.split(",")) {
    const kinds = Kernels.heedsImportance(target) ? [undefined, importance] : [undefined];
    for (const given of kinds) {
      const result = await compare(source, target, rounded, given);
      results.push(result);
      if (flags.json) continue;
      const { ours, ggml } = result;
      const cells = [ours.toFixed(0).padStart(8)];
      if (ggml !== null) cells.push(ggml.toFixed(0).padStart(8), (ours / ggml).toFixed(2).padStart(8));
      process.stdout.write(
        `${source.padEnd(7)} ${target.padEnd(8)} ${(given ? "yes" : "no").padEnd(10)} ${cells.join(" ")}\n`,
      );
    }
  }
}
if (flags.json) process.stdout.write(`${JSON.stringify(results, null, 2)}\n`);
