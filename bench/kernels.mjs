// Speed of the kernels beside ggml's own encoders, one thread, the same normal values, in one run.
//
//   npm run build && node bench/kernels.mjs [rounds]
//
// Rounds of ours and ggml's alternate, so a change in the machine's load meets both; the medians are printed in
// MB of float32 values a second (BF16 input is half of that in bytes). Outputs are compared first.
//
// ggml's calls run on a thread of koffi's pool. Its library is SSE code, and on the thread that ran JavaScript or
// WebAssembly before (AVX code) it was seen to take up to three times as long: Q6_K 43 in place of 130 MB/s.

import { existsSync } from "node:fs";
import { createRequire } from "node:module";
import { join } from "node:path";
import { promisify } from "node:util";
import koffi from "koffi";
import { compileKernels } from "../dist/src/blocks/kernels/load.js";
import { Kernels } from "../dist/src/blocks/kernels/kernels.js";
import {
  floatsToBfloats,
  floatsToHalves,
  bfloatsToFloats,
  halvesToFloats,
} from "../dist/src/blocks/floats.js";
import { blockType, rowBytes } from "../dist/src/blocks/table.js";

const VALUES = 2 ** 20;
const rounds = Number(process.argv[2] ?? 9);

const targets = [
  ["F32", 1],
  ["F16", 1],
  ["BF16", 1],
  ["Q8_0", 1],
  ["Q4_0", 1],
  ["Q6_K", 16],
];
const widths = { F32: 4, F16: 2, BF16: 2 };

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
function normalValues(count) {
  let state = 1;
  const uniform = () => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    return (state + 0.5) / 2 ** 32;
  };
  return Float32Array.from(
    { length: count },
    () => 0.02 * Math.sqrt(-2 * Math.log(uniform())) * Math.cos(2 * Math.PI * uniform()),
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

async function megabytesPerSecond(values, work) {
  const start = performance.now();
  await work();
  return (values * 4) / 1000 / (performance.now() - start);
}

function median(numbers) {
  return numbers.toSorted((a, b) => a - b)[numbers.length >> 1];
}

const quantizeChunk = openGgml();
const quantizeAsync = quantizeChunk && promisify(quantizeChunk.async);
const kernels = new Kernels(await compileKernels(), VALUES);
const values = normalValues(VALUES);

process.stdout.write("source  target     ours     ggml    ratio   (MB of float32 a second, medians)\n");
for (const source of Object.keys(widths)) {
  const { bytes, rounded } = asSource(source, values);
  kernels.input.set(bytes);
  for (const [target, fraction] of targets) {
    const count = VALUES / fraction;
    const expected = new Uint8Array(rowBytes(target, count));
    const ours = () => kernels.convert(source, target, count);
    const theirs = () => quantizeAsync(blockType(target).id, rounded, expected, 0n, 1n, BigInt(count), null);
    ours();
    // To float32 ggml only copies; equal types ours only checks.
    const compared = quantizeChunk !== undefined && target !== "F32" && source !== target;
    if (compared) {
      await theirs();
      if (!kernels.output.every((byte, i) => byte === expected[i])) {
        throw new Error(`${source} to ${target}: the bytes differ from ggml's`);
      }
    }
    const speeds = { ours: [], theirs: [] };
    for (let round = 0; round < rounds; round++) {
      speeds.ours.push(await megabytesPerSecond(count, ours));
      if (compared) speeds.theirs.push(await megabytesPerSecond(count, theirs));
    }
    const own = median(speeds.ours);
    const line = [source.padEnd(7), target.padEnd(6), own.toFixed(0).padStart(8)];
    if (compared) {
      const other = median(speeds.theirs);
      line.push(other.toFixed(0).padStart(8), (own / other).toFixed(2).padStart(8));
    }
    process.stdout.write(`${line.join(" ")}\n`);
  }
}
