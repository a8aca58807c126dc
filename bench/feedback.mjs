// How long rounding with feedback takes and what it loses, by effort, beside the search alone.
//
//   npm run build && node bench/feedback.mjs [--only TYPE,…] [--rows N] [--columns N] [--json FILE]
//
// A matrix of 6144 columns and 2048 rows of normal values on one thread: 24 panels of 8 chunks of 256 rows, each with
// the same correlated columns, which is what the kernels do of it; the products between panels and between chunks of
// rows are not theirs. Some of the rows are timed and the time is scaled. Losses are Σ D·V² in units of what the
// search alone loses with the pivots as its importance.
import { parseArgs } from "node:util";
import { decode } from "../dist/src/blocks/decode/decode.js";
import { FeedbackKernels } from "../dist/src/blocks/kernels/feedback-kernels.js";
import { Kernels } from "../dist/src/blocks/kernels/kernels.js";
import { compileKernels } from "../dist/src/blocks/kernels/load.js";
import { normalValues } from "./ggml.mjs";
import { keep } from "./keep.mjs";

const { values: flags } = parseArgs({
  options: {
    only: { type: "string", default: "Q4_0,Q8_0,Q4_K,Q6_K,Q3_K,Q2_K,IQ4_XS,IQ3_XXS,NVFP4" },
    rows: { type: "string", default: "2048" },
    columns: { type: "string", default: "6144" },
    chunks: { type: "string", default: "4" },
    json: { type: "string" },
  },
});

const PANEL = 256;
const CHUNK = 256;

/** Correlated moments: a few common causes, neighbours alike, columns of different sizes. */
function moments(count) {
  const causes = count >> 3;
  const mix = normalValues(causes * count, 1);
  const sizes = normalValues(2 * count, 1)
    .subarray(count)
    .map((x) => Math.exp(0.7 * x));
  const out = new Float64Array(count * count);
  for (let i = 0; i < count; i++) {
    for (let j = 0; j < count; j++) {
      let common = 0.6 ** Math.abs(i - j) + (i === j ? 0.3 : 0);
      for (let c = 0; c < causes; c++) common += (mix[c * count + i] * mix[c * count + j]) / causes;
      out[i * count + j] = common * sizes[i] * sizes[j];
    }
  }
  return out;
}

/** H = A·D·Aᵀ, the last column first. */
function factorise(rest, count) {
  const factor = new Float32Array(count * count);
  const pivots = new Float32Array(count);
  for (let k = count - 1; k >= 0; k--) {
    const pivot = rest[k * count + k];
    pivots[k] = pivot;
    for (let i = 0; i <= k; i++) factor[i * count + k] = rest[i * count + k] / pivot;
    for (let i = 0; i < k; i++) {
      for (let j = 0; j < k; j++) {
        rest[i * count + j] -= (rest[i * count + k] * rest[j * count + k]) / pivot;
      }
    }
  }
  return { factor, pivots };
}

const { factor, pivots } = factorise(moments(PANEL), PANEL);
const rowFactor = factorise(moments(CHUNK), CHUNK).factor;
const module = await compileKernels();
const chunks = Number(flags.chunks);
const values = normalValues(CHUNK * PANEL * chunks, 0.02);
const whole = Number(flags.rows) * Number(flags.columns);
const scaled = whole / values.length;

function seconds(work) {
  const before = process.cpuUsage();
  work();
  const { user, system } = process.cpuUsage(before);
  return (user + system) / 1e6;
}

/** Σ D·V² of the rows of a chunk without feedback over rows. */
function lossOf(own, stored) {
  const row = new Float64Array(PANEL);
  let loss = 0;
  for (let i = 0; i < CHUNK; i++) {
    row.fill(0);
    for (let k = 0; k < PANEL; k++) {
      const error = own[i * PANEL + k] - stored[i * PANEL + k];
      for (let j = k; j < PANEL; j++) row[j] += error * factor[k * PANEL + j];
    }
    for (let j = 0; j < PANEL; j++) loss += pivots[j] * row[j] * row[j];
  }
  return loss;
}

function feed(feedback, type, effort, own, rowFeedback) {
  const input = feedback.open(type, { rows: CHUNK, width: PANEL, effort, rowFeedback });
  input.values.set(own);
  input.carried.fill(0);
  input.added.fill(0);
  input.factor.set(factor);
  input.pivots.set(pivots);
  input.rowFactor.set(rowFactor);
  return feedback.round();
}

process.stdout.write("type     effort   seconds     MB/s  of search      loss\n");
const results = [];
for (const type of flags.only.split(",")) {
  const kernels = new Kernels(module, CHUNK * PANEL);
  const feedback = new FeedbackKernels(module);
  const parts = Array.from({ length: chunks }, (_, c) =>
    values.subarray(c * CHUNK * PANEL, (c + 1) * CHUNK * PANEL),
  );
  let alone = 0;
  const search = (own) => {
    kernels.input.set(new Uint8Array(own.buffer, own.byteOffset, own.byteLength));
    kernels.convert("F32", type, own.length, pivots, "search");
  };
  search(parts[0]);
  const searchTime = seconds(() => parts.forEach(search)) * scaled;
  for (const own of parts) {
    search(own);
    const stored = new Float32Array(own.length);
    decode(type, kernels.output, stored);
    alone += lossOf(own, stored);
  }
  for (const effort of [0, 1, 2]) {
    feed(feedback, type, effort, parts[0], true);
    const time = seconds(() => parts.forEach((own) => feed(feedback, type, effort, own, true))) * scaled;
    let loss = 0;
    for (const own of parts) loss += lossOf(own, feed(feedback, type, effort, own, false).stored);
    const speed = (whole * 4) / 1e6 / time;
    results.push({ type, effort, seconds: time, megabytesPerSecond: speed, loss: loss / alone });
    process.stdout.write(
      [
        type.padEnd(8),
        String(effort).padStart(6),
        time.toFixed(2).padStart(9),
        speed.toFixed(1).padStart(8),
        (searchTime / time).toFixed(3).padStart(10),
        (loss / alone).toFixed(4).padStart(9),
      ].join(" ") + "\n",
    );
  }
}
keep(flags.json, results);
