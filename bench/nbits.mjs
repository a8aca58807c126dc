// How fast codes of a few bits with a scale for each block are searched, beside the GGUF type of as many bits.
//
//   npm run build && node bench/nbits.mjs [--rounds N] [--json FILE]
//
// MB of float32 a second of processor time on one thread, with and without an importance, in turns.
import { setTimeout } from "node:timers/promises";
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

const cases = [];
for (const bits of [2, 4, 8]) {
  for (const zeroPoints of [false, true]) {
    for (const block of [32, 128]) {
      for (const weights of [undefined, importance])
        cases.push({ type: { bits, block, zeroPoints }, weights });
    }
  }
}

const own = ({ type, weights }) => kernels.convertNBits("F32", type, ROW, values.length / ROW, weights);
const theirs = ({ type, weights }) => kernels.convert("F32", peer(type), values.length, weights, "search");

/** Speeds of both, in turns. */
function compare(each) {
  const speeds = [own, theirs].map((work) => ({ work, found: [] }));
  for (let round = 0; round < Number(flags.rounds); round++) {
    for (const { work, found } of speeds) {
      const before = process.cpuUsage();
      work(each);
      const { user, system } = process.cpuUsage(before);
      found.push((values.length * 4) / (user + system));
    }
  }
  return speeds.map(({ found }) => median(found));
}

// V8 compiles hot functions once more, on threads whose time would be counted.
for (let pass = 0; pass < 3; pass++) {
  for (const each of cases) {
    own(each);
    theirs(each);
  }
  await setTimeout(1000);
}

const results = [];
process.stdout.write("bits  zero points  block  importance   MB/s  GGUF     MB/s   ratio\n");
for (const each of cases) {
  const { type, weights } = each;
  const [speed, otherSpeed] = compare(each);
  const other = peer(type);
  results.push({ ...type, importance: weights !== undefined, speed, other, otherSpeed });
  const cells = [
    String(type.bits).padEnd(5),
    (type.zeroPoints ? "yes" : "no").padEnd(12),
    String(type.block).padEnd(6),
    (weights === undefined ? "no" : "yes").padEnd(10),
    speed.toFixed(0).padStart(6),
    ` ${other}`.padEnd(6),
    otherSpeed.toFixed(0).padStart(6),
    (speed / otherSpeed).toFixed(2).padStart(7),
  ];
  process.stdout.write(`${cells.join(" ")}\n`);
}
keep(flags.json, results);
