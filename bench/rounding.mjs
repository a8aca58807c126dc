// How long a matrix takes to be rounded with feedback, factor included, on one core: seconds of processor time.
//
//   npm run build && node bench/rounding.mjs [--only TYPE,…] [--rows N] [--columns N] [--threads N] [--gradients] [--json FILE]
//
// 2048 rows of 6144 BF16 values and full moments of correlated inputs; with --gradients also moments of as many
// gradients as there are rows, so that rows feed back on each other too.
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { parseArgs } from "node:util";
import { Crew } from "../dist/calibration/rounding/crew.js";
import { inputMetric } from "../dist/calibration/rounding/metric.js";
import { factorMetric, roundMatrix } from "../dist/calibration/rounding/round-matrix.js";
import { floatsToBfloats } from "../dist/src/blocks/floats.js";
import { normalValues } from "./ggml.mjs";
import { keep } from "./keep.mjs";

const { values: flags } = parseArgs({
  options: {
    only: { type: "string", default: "Q4_0,Q4_K,Q6_K,Q3_K,Q2_K" },
    rows: { type: "string", default: "2048" },
    columns: { type: "string", default: "6144" },
    threads: { type: "string", default: "1" },
    efforts: { type: "string", default: "0,1,2" },
    gradients: { type: "boolean", default: false },
    json: { type: "string" },
  },
});

const rows = Number(flags.rows);
const columns = Number(flags.columns);
const threads = Number(flags.threads);

/** Moments whose neighbours are alike and whose columns are of different sizes. */
function moments(count) {
  const sizes = normalValues(count, 1).map((x) => Math.exp(0.7 * x));
  const alike = Float64Array.from({ length: count }, (_, distance) => 0.95 ** distance);
  const values = new Float32Array(count * count);
  for (let i = 0; i < count; i++) {
    for (let j = 0; j < count; j++) {
      values[i * count + j] = (alike[Math.abs(i - j)] + (i === j ? 0.2 : 0)) * sizes[i] * sizes[j];
    }
  }
  return { columns: count, blockWidth: count, values, tokens: 1 };
}

/** Seconds of all threads, and what `work` gives. */
async function measured(work) {
  const before = process.cpuUsage();
  const result = await work();
  const { user, system } = process.cpuUsage(before);
  return { seconds: (user + system) / 1e6, result };
}

const folder = mkdtempSync(join(tmpdir(), "lapidary-bench-rounding-"));
const path = join(folder, "matrix.bf16");
const bytes = new Uint8Array(2 * rows * columns);
floatsToBfloats(normalValues(rows * columns, 0.02), bytes);
writeFileSync(path, bytes);
const source = { name: "matrix", path, offset: 0, type: "BF16", rows, columns };
const inputs = moments(columns);
const gradients = flags.gradients ? moments(rows) : null;
const crew = await Crew.start({ threads });
const results = [];
try {
  // The threads open their products on the first task.
  await crew.factor(new Float32Array(256 ** 2));
  const { seconds: factoring, result: form } = await measured(() =>
    factorMetric(crew, inputMetric(inputs, null)),
  );
  process.stdout.write(
    `factor of ${columns} columns: ${factoring.toFixed(2)} s\n\ntype     effort  rounding  with factor       loss\n`,
  );
  for (const target of flags.only.split(",")) {
    for (const effort of flags.efforts.split(",").map(Number)) {
      const job = { source, target, effort, form, gradients, memory: 2 ** 31 };
      const { seconds, result } = await measured(() => roundMatrix(crew, job));
      const { loss } = result;
      results.push({ type: target, effort, seconds, factoring, loss });
      process.stdout.write(
        [
          target.padEnd(8),
          String(effort).padStart(6),
          seconds.toFixed(2).padStart(9),
          (seconds + factoring).toFixed(2).padStart(12),
          loss.toPrecision(5).padStart(10),
        ].join(" ") + "\n",
      );
    }
  }
} finally {
  await crew.close();
  rmSync(folder, { recursive: true, force: true });
}
keep(flags.json, results);
