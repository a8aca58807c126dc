// What our search loses in rounding beside ggml, and how fast it is.
//
//   npm run build && node bench/search.mjs [--only TYPE,…] [--rows N] [--rounds N] [--json FILE]
//
// The weighted squared error Σ importance · (value − stored)² of every type that knows a search, over rows of
// every matrix of the miniature checkpoint and over normal values, in ppm of Σ importance · value²: ggml's own,
// without and with the importance, and ours. For types whose blocks hold one scale (and offset) an exhaustive scan
// of all of them says how much of the gap between ggml and the best is closed. Speeds are MB of float32 a second
// of processor time on one thread, in turns, beside ggml's encoder with an importance.
import { join } from "node:path";
import { parseArgs } from "node:util";
import { openFile } from "../dist/formats/file-source.js";
import { readImportance } from "../dist/formats/imatrix/read.js";
import { openCheckpoint } from "../dist/formats/safetensors/read.js";
import { packageRoot } from "../dist/src/base/paths.js";
import { decode } from "../dist/src/blocks/decode/decode.js";
import { encodable } from "../dist/src/blocks/encode/encode.js";
import { floatToHalf, halfToFloat } from "../dist/src/blocks/floats.js";
import { Kernels } from "../dist/src/blocks/kernels/kernels.js";
import { compileKernels } from "../dist/src/blocks/kernels/load.js";
import { rowBytes } from "../dist/src/blocks/table.js";
import { bindCheckpoint } from "../dist/src/gemma4/bind.js";
import { readConfig } from "../dist/src/gemma4/config.js";
import { NEEDY, normalValues, shippedGgml } from "./ggml.mjs";
import { keep } from "./keep.mjs";

const { values: flags } = parseArgs({
  options: {
    only: { type: "string", default: encodable.filter((type) => Kernels.searches(type)).join(",") },
    rows: { type: "string", default: "4" },
    rounds: { type: "string", default: "5" },
    json: { type: "string" },
  },
});

const shipped = shippedGgml();

/** Some rows of every matrix of the miniature that has an importance, then rows of normal values. */
async function samples() {
  const folder = join(packageRoot, "fixtures/nano-e");
  const config = await readConfig(folder);
  const checkpoint = await openCheckpoint(folder);
  const matrix = await readImportance(join(packageRoot, "fixtures/reference/imatrix.gguf"));
  const source = await openFile(checkpoint.shards[0].path);
  const found = [];
  for (const { weight, entry } of bindCheckpoint(config, checkpoint).weights) {
    const importance = matrix.entries.get(weight.gguf)?.values;
    const row = entry.shape.at(-1);
    if (importance === undefined || row % 256 !== 0) continue;
    const all = entry.byteLength / 2 / row;
    for (let index = 0; index < Number(flags.rows); index++) {
      const bytes = new Uint8Array(2 * row);
      const at = Math.floor((index * all) / Number(flags.rows));
      await source.read(bytes, entry.offset + at * 2 * row);
      const values = new Float32Array(row);
      decode("BF16", bytes, values);
      found.push({ values, importance: new Float32Array(importance) });
    }
  }
  await source.close();
  const importance = normalValues(1024, 1).map((value) => value * value);
  for (let index = 0; index < 32; index++) {
    found.push({ values: normalValues(1024 * (index + 1), 0.02).subarray(1024 * index), importance });
  }
  return found;
}

function weightedError(type, values, bytes, weights) {
  const stored = new Float32Array(values.length);
  decode(type, bytes, stored);
  let sum = 0;
  for (const [at, value] of values.entries()) sum += weights[at] * (value - stored[at]) ** 2;
  return sum;
}

const range = (from, to) => Array.from({ length: to - from + 1 }, (_, index) => from + index);
const codebook = [-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113];
const floats4 = [0, 1, 2, 3, 4, 6, 8, 12].flatMap((level) => [level, -level]);
const halves = Array.from({ length: 0x7c00 }, (_, bits) => halfToFloat(bits));

/** Levels of types with one scale a group, the values of a group, and all scales that it can have. */
const scaled = {
  Q4_0: { levels: range(-8, 7), size: 32 },
  Q5_0: { levels: range(-16, 15), size: 32 },
  Q8_0: { levels: range(-127, 127), size: 32 },
  IQ4_NL: { levels: codebook, size: 32 },
  Q2_0: { levels: [-1, 0, 1, 2], size: 64 },
  Q1_0: { levels: [-1, 1], size: 128 },
  TQ1_0: { levels: [-1, 0, 1], size: 256 },
  TQ2_0: { levels: [-1, 0, 1], size: 256 },
  MXFP4: { levels: floats4, size: 32, scales: range(1, 254).map((e) => 2 ** (e - 128)) },
  NVFP4: {
    levels: floats4,
    size: 16,
    scales: range(1, 126).map((code) => {
      const exponent = code >> 3;
      return (exponent === 0 ? (code & 7) / 512 : (1 + (code & 7) / 8) * 2 ** (exponent - 7)) / 2;
    }),
  },
};
const affine = { Q4_1: 15, Q5_1: 31 };

/** Error of a group whose values all go to the nearest of sorted places. */
function nearestError(values, weights, places) {
  let sum = 0;
  for (const [at, value] of values.entries()) {
    let low = 0;
    let high = places.length - 1;
    while (high - low > 1) {
      const middle = (low + high) >> 1;
      if (places[middle] <= value) low = middle;
      else high = middle;
    }
    const off = Math.min(Math.abs(value - places[low]), Math.abs(value - places[high]));
    sum += weights[at] * off * off;
  }
  return sum;
}

/** Least error of one group over all scales from which it can have one. */
function scanScales({ levels, scales }, values, weights) {
  const most = Math.max(...values.map(Math.abs));
  if (most === 0) return 0;
  const top = Math.max(...levels.map(Math.abs));
  const candidates =
    scales ??
    halves.slice(
      floatToHalf((most / top) * (top > 4 ? 0.3 : 0.02)),
      floatToHalf(Math.min(65504, (most / top) * 4)) + 1,
    );
  let best = Infinity;
  for (const scale of candidates) {
    for (const sign of scales === undefined ? [1, -1] : [1]) {
      const places = levels.map((level) => level * scale * sign).toSorted((a, b) => a - b);
      best = Math.min(best, nearestError(values, weights, places));
    }
  }
  return best;
}

/** Least error of one group over a fine net of scales and offsets, refined by least squares. */
function scanAffine(top, values, weights) {
  const low = Math.min(...values);
  const high = Math.max(...values);
  if (low === high) return 0;
  let best = Infinity;
  for (let a = -8; a <= 24; a++) {
    for (let b = -8; b <= 24; b++) {
      let offset = low + ((high - low) * a) / 128;
      let scale = (high - ((high - low) * b) / 128 - offset) / top;
      for (let pass = 0; pass < 3; pass++) {
        const [d, m] = [halfToFloat(floatToHalf(scale)), halfToFloat(floatToHalf(offset))];
        best = Math.min(
          best,
          nearestError(
            values,
            weights,
            range(0, top).map((level) => d * level + m),
          ),
        );
        let [w, l, ll, x, lx] = [0, 0, 0, 0, 0];
        for (const [at, value] of values.entries()) {
          const level = Math.max(0, Math.min(top, Math.round((value - offset) / scale)));
          w += weights[at];
          l += weights[at] * level;
          ll += weights[at] * level * level;
          x += weights[at] * value;
          lx += weights[at] * level * value;
        }
        const determinant = w * ll - l * l;
        if (determinant <= 0) break;
        scale = (w * lx - x * l) / determinant;
        offset = (ll * x - l * lx) / determinant;
        if (!(scale > 0)) break;
      }
    }
  }
  return best;
}

/** Groups of a few rows at most: the scan tries thousands of scales on each. */
function exhaustive(type, values, weights) {
  const size = scaled[type]?.size ?? 32;
  let sum = 0;
  for (let at = 0; at < values.length; at += size) {
    const group = [values.subarray(at, at + size), weights.subarray(at, at + size)];
    sum += type in affine ? scanAffine(affine[type], ...group) : scanScales(scaled[type], ...group);
  }
  return sum;
}

const median = (numbers) => numbers.toSorted((a, b) => a - b)[numbers.length >> 1];
const CAPACITY = 2 ** 20;
const kernels = new Kernels(await compileKernels(), CAPACITY);

function ours(type, values, importance, method) {
  kernels.input.set(new Uint8Array(values.buffer, values.byteOffset, values.byteLength));
  if (kernels.convert("F32", type, values.length, importance, method) >= 0)
    throw new Error(`${type} refuses the values`);
  return kernels.output.slice();
}

async function speeds(type) {
  const row = 4096;
  const values = normalValues(2 ** 17, 0.02);
  const importance = normalValues(row, 1).map((value) => value * value);
  kernels.input.set(new Uint8Array(values.buffer));
  const out = new Uint8Array(rowBytes(type, values.length));
  const clock = async (work) => {
    const before = process.cpuUsage();
    await work();
    const { user, system } = process.cpuUsage(before);
    return (values.length * 4) / (user + system);
  };
  const contestants = {
    search: () => kernels.convert("F32", type, values.length, importance, "search"),
    own: () => kernels.convert("F32", type, values.length, importance, "ggml"),
    ggml: () => shipped(type, values, out, values.length, row, importance),
  };
  const found = { search: [], own: [], ggml: [] };
  for (let round = 0; round <= Number(flags.rounds); round++) {
    for (const [name, work] of Object.entries(contestants)) {
      const speed = await clock(work);
      if (round > 0) found[name].push(speed);
    }
  }
  return Object.fromEntries(Object.entries(found).map(([name, list]) => [name, median(list)]));
}

const ppm = (value) => (Number.isFinite(value) ? (value * 1e6).toFixed(1) : "").padStart(10);
const percent = (share) => (Number.isFinite(share) ? `${(share * 100).toFixed(1)} %` : "");

const data = await samples();
const results = [];
process.stdout.write(
  "type     importance   ggml ppm search ppm    lower   possible  gap closed   rows above    MB/s    ggml   ratio\n",
);
for (const type of flags.only.split(",")) {
  const speed = await speeds(type);
  for (const given of [false, true]) {
    const totals = { energy: 0, ggml: 0, search: 0, scanned: 0, scan: 0, scannedSearch: 0, above: 0 };
    for (const [index, { values, importance }] of data.entries()) {
      const weights = given ? importance : new Float32Array(values.length).fill(1);
      for (const [at, value] of values.entries()) totals.energy += weights[at] * value * value;
      const theirs =
        given || !NEEDY.has(type) ? ours(type, values, given ? importance : undefined, "ggml") : null;
      const searched = ours(type, values, given ? importance : undefined, "search");
      const search = weightedError(type, values, searched, weights);
      const ggml = theirs === null ? Number.NaN : weightedError(type, values, theirs, weights);
      totals.search += search;
      totals.ggml += ggml;
      if (search > ggml) totals.above++;
      if ((type in scaled || type in affine) && index % 16 === 0) {
        totals.scan += exhaustive(type, values, weights);
        totals.scanned += ggml;
        totals.scannedSearch += search;
      }
    }
    const closed = (totals.scanned - totals.scannedSearch) / (totals.scanned - totals.scan);
    const result = {
      type,
      importance: given,
      ggmlError: totals.ggml / totals.energy,
      searchError: totals.search / totals.energy,
      /** Rows on which ggml loses less. */
      above: totals.above,
      rows: data.length,
      gapClosed: totals.scan > 0 ? closed : null,
      scanOverGgml: totals.scan > 0 ? totals.scan / totals.scanned : null,
      speed,
    };
    results.push(result);
    process.stdout.write(
      [
        type.padEnd(8),
        (given ? "yes" : "no").padEnd(10),
        ppm(result.ggmlError),
        ppm(result.searchError),
        percent(1 - result.searchError / result.ggmlError).padStart(8),
        (result.scanOverGgml === null ? "" : percent(1 - result.scanOverGgml)).padStart(10),
        (result.gapClosed === null ? "" : percent(result.gapClosed)).padStart(11),
        `${totals.above}/${data.length} above`.padStart(12),
        speed.search.toFixed(0).padStart(7),
        speed.ggml.toFixed(0).padStart(7),
        (speed.search / speed.ggml).toFixed(2).padStart(7),
      ].join(" ") + "\n",
    );
  }
}
keep(flags.json, results);
