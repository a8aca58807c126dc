// Speed of the kernels beside ggml's own encoders, one thread, the same normal values, in one run.
//
//   npm run build && node bench/kernels.mjs [--rounds N] [--only TYPE,…] [--from F32,F16,BF16] [--native] [--json FILE]
//
// Every type is encoded without an importance and, where it heeds one, with one. Rounds of ours and ggml's
// alternate, so a change in the machine's load meets both; medians of processor time are printed in MB of float32
// values a second (BF16 input is half of that in bytes). Outputs are compared first.
//
// `--native` adds ggml compiled for this machine from its sources, which `npm run test:peer` fetches: npm's library
// has no AVX in it.

import { parseArgs } from "node:util";
import { encodable } from "../dist/src/blocks/encode/encode.js";
import {
  bfloatsToFloats,
  floatsToBfloats,
  floatsToHalves,
  halvesToFloats,
} from "../dist/src/blocks/floats.js";
import { Kernels } from "../dist/src/blocks/kernels/kernels.js";
import { compileKernels } from "../dist/src/blocks/kernels/load.js";
import { rowBytes } from "../dist/src/blocks/table.js";
import { nativeGgml, NEEDY, normalValues, shippedGgml } from "./ggml.mjs";
import { keep } from "./keep.mjs";

const { values: flags } = parseArgs({
  options: {
    rounds: { type: "string", default: "9" },
    only: { type: "string", default: encodable.join(",") },
    from: { type: "string", default: "BF16" },
    native: { type: "boolean", default: false },
    json: { type: "string" },
  },
});
const ROW = 4096;
const VALUES = 2 ** 20;
const widths = { F32: 4, F16: 2, BF16: 2 };
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

/** Values that take some 30 ms, after a call that compiles what there is to compile. */
async function fitting(work) {
  await work(ROW);
  let count = ROW;
  while (count < VALUES) {
    const before = process.cpuUsage();
    await work(count);
    const { user, system } = process.cpuUsage(before);
    if (user + system > 15_000) break;
    count *= 2;
  }
  return count;
}

function median(numbers) {
  return numbers.toSorted((a, b) => a - b)[numbers.length >> 1];
}

const shipped = shippedGgml();
const native = flags.native ? nativeGgml() : undefined;
const kernels = new Kernels(await compileKernels(), VALUES);
const values = normalValues(VALUES, 0.02);
const importance = normalValues(ROW, 1).map((value) => value * value);
const results = [];

/** One line of the table. */
async function compare(source, target, rounded, given) {
  const out = new Uint8Array(rowBytes(target, VALUES));
  const contestants = new Map([
    [
      "ours",
      (count) => {
        if (kernels.convert(source, target, count, given) >= 0)
          throw new Error(`${target} refuses the values`);
      },
    ],
  ]);
  // To float32 ggml only copies; equal types ours only checks.
  if (target !== "F32" && source !== target && (given !== undefined || !NEEDY.has(target))) {
    contestants.set("ggml", (count) => shipped(target, rounded, out, count, ROW, given));
    if (native !== undefined) {
      contestants.set("native", (count) => native(target, rounded, out, count, ROW, given));
    }
  }
  const counts = new Map();
  for (const [name, work] of contestants) counts.set(name, await fitting(work));
  if (contestants.has("ggml")) {
    const both = Math.min(counts.get("ours"), counts.get("ggml"));
    for (const name of ["ours", "ggml"]) await speed(both, () => contestants.get(name)(both));
    if (!kernels.output.every((byte, i) => byte === out[i])) {
      throw new Error(`${source} to ${target}: the bytes differ from ggml's`);
    }
  }
  const speeds = new Map([...contestants.keys()].map((name) => [name, []]));
  for (let round = 0; round < Number(flags.rounds); round++) {
    for (const [name, work] of contestants) {
      const count = counts.get(name);
      speeds.get(name).push(await speed(count, () => work(count)));
    }
  }
  const found = Object.fromEntries([...speeds].map(([name, list]) => [name, median(list)]));
  return { source, target, importance: given !== undefined, ...found };
}

const more = flags.native ? "   native    ratio" : "";
process.stdout.write(
  `source  target   importance     ours     ggml    ratio${more}   (MB of float32 a second)\n`,
);
for (const source of flags.from.split(",")) {
  const { bytes, rounded } = asSource(source, values);
  kernels.input.set(bytes);
  for (const target of flags.only.split(",")) {
    const kinds = Kernels.heedsImportance(target) ? [undefined, importance] : [undefined];
    for (const given of kinds) {
      const result = await compare(source, target, rounded, given);
      results.push(result);
      const { ours, ggml, native: compiled } = result;
      const cells = [ours.toFixed(0).padStart(8)];
      for (const other of [ggml, compiled]) {
        if (other !== undefined)
          cells.push(other.toFixed(0).padStart(8), (ours / other).toFixed(2).padStart(8));
      }
      process.stdout.write(
        `${source.padEnd(7)} ${target.padEnd(8)} ${(given ? "yes" : "no").padEnd(10)} ${cells.join(" ")}\n`,
      );
    }
  }
}
keep(flags.json, results);
