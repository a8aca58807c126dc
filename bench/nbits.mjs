// How fast codes of a few bits with a scale for each block are searched, beside the GGUF type of as many bits.
//
//   npm run build && node bench/nbits.mjs [--rounds N] [--json FILE]
//
// MB of float32 a second of processor time on one thread, with and without an importance, in turns.
import { parseArgs } from "node:util";
import { Kernels } from "../dist/src/blocks/kernels/kernels.js";
import { compileKernels } from "../dist/src/blocks/kernels/load.js";
import { normalValues } from "./ggml.mjs";
import { keep } from "./keep.mjs";

const { values: flags } = parseArgs({
  options: { rounds: { type: "string", default: "5" }, json: { type: "string" } },
});

const ROW = 4096;
const values = normalValues(2 ** 17, 0.02);
const importance = normalValues(ROW, 1).map((value) => value * value);
const kernels = new Kernels(await compileKernels(), values.length);
kernels.input.set(new Uint8Array(values.buffer));

/** The type of a GGUF file to compare with: Q2_0 has no offset, nor has any type of 8 bits. */
const peer = ({ bits, zeroPoints }) => ({ 2: "Q2_0", 4: zeroPoints ? "Q4_1" : "Q4_0", 8: "Q8_0" })[bits];

const median = (numbers) => numbers.toSorted((a, b) => a - b)[numbers.length >> 1];

/** Speeds of two pieces of work, in turns. */
function compare(...works) {
  const speeds = works.map(() => []);
  for (let round = 0; round <= Number(flags.rounds); round++) {
    for (const [index, work] of works.entries()) {
      const before = process.cpuUsage();
      work();
      const { user, system } = process.cpuUsage(before);
      if (round > 0) speeds[index].push((values.length * 4) / (user + system));
    }
  }
  return speeds.map(median);
}

const results = [];
process.stdout.write("bits  zero points  block  importance   MB/s   GGUF         MB/s   ratio\n");
for (const bits of [2, 4, 8]) {
  for (const zeroPoints of [false, true]) {
    for (const block of [32, 128]) {
      for (const weights of [undefined, importance]) {
        const type = { bits, block, zeroPoints };
        const other = peer(type);
        const [speed, theirs] = compare(
          () => kernels.convertNBits("F32", type, ROW, values.length / ROW, weights, "search"),
          () => kernels.convert("F32", other, values.length, weights, "search"),
        );
        results.push({ ...type, importance: weights !== undefined, speed, other, otherSpeed: theirs });
        const cells = [
          String(bits).padEnd(5),
          (zeroPoints ? "yes" : "no").padEnd(12),
          String(block).padEnd(6),
          (weights === undefined ? "no" : "yes").padEnd(11),
          speed.toFixed(0).padStart(5),
          ` ${other}`.padEnd(10),
          theirs.toFixed(0).padStart(8),
          (speed / theirs).toFixed(2).padStart(7),
        ];
        process.stdout.write(`${cells.join(" ")}\n`);
      }
    }
  }
}
keep(flags.json, results);
