// How fast ONNX packages are written, beside GGUF files of the same bits from the same checkpoint:
//
//   npm run build && node bench/export.mjs [--size MiB] [--rounds N] [--threads N] [--memory MiB]
//     [--method search|nearest] [--only DTYPE,…] [--folder DIR] [--json FILE]
//
// Both are whole commands: start-up, plan, journal and flush to the disk are included. They take turns; medians of
// wall time, in MB (10^6 bytes) of BF16 in the checkpoint a second. A tied embedding is written twice in a package
// (table and output matrix) and once in GGUF, and the mixes give some matrices other bits than the dtypes do; at
// the 1,024 tokens of the checkpoint made here that is next to nothing.
import { execFileSync } from "node:child_process";
import { mkdtempSync, rmSync, statSync } from "node:fs";
import { availableParallelism, loadavg, tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";
import { makeCheckpoint } from "./checkpoint.mjs";
import { keep } from "./keep.mjs";

/** What is exported, and the type in GGUF with as many bits. */
const PAIRS = [
  { name: "q8", onnx: ["--dtype", "q8"], gguf: "Q8_0" },
  { name: "q4", onnx: ["--dtype", "q4"], gguf: "Q4_0" },
  { name: "q4z", onnx: ["--dtype", "q4", "--zero-points"], gguf: "Q4_1" },
  // The check of the range of values runs the model, which GGUF has nothing like.
  { name: "fp16", onnx: ["--dtype", "fp16", "--no-range-check"], gguf: "F16" },
];

const { values: flags } = parseArgs({
  options: {
    size: { type: "string", default: "1024" },
    rounds: { type: "string", default: "3" },
    threads: { type: "string", default: String(availableParallelism()) },
    memory: { type: "string", default: "1024" },
    method: { type: "string", default: "search" },
    only: { type: "string", default: PAIRS.map(({ name }) => name).join(",") },
    folder: { type: "string", default: tmpdir() },
    json: { type: "string" },
  },
});
const PROGRAM = fileURLToPath(new URL("../bin/run.js", import.meta.url));
const MiB = 2 ** 20;

const folder = mkdtempSync(join(flags.folder, "lapidary-bench-"));
process.once("exit", () => rmSync(folder, { recursive: true, force: true }));
const checkpoint = join(folder, "checkpoint");
await makeCheckpoint(checkpoint, { bytes: Number(flags.size) * MiB });
const bytes = statSync(join(checkpoint, "model.safetensors")).size;
const output = join(folder, "out");

/** Runs a conversion of the checkpoint; returns its seconds of wall time. */
function clock(...words) {
  // Nobody pays for what the one before has left in the page cache.
  rmSync(output, { recursive: true, force: true });
  execFileSync("sync");
  const limits = ["--threads", flags.threads, "--memory", `${flags.memory}MiB`];
  const start = performance.now();
  execFileSync(process.execPath, [PROGRAM, "convert", checkpoint, "--out", output, ...limits, ...words], {
    stdio: ["ignore", "ignore", "pipe"],
  });
  return (performance.now() - start) / 1000;
}

const median = (list) => list.toSorted((a, b) => a - b)[Math.floor(list.length / 2)];

const chosen = flags.only.split(",").map((name) => {
  const pair = PAIRS.find((each) => each.name === name);
  if (pair === undefined) throw new Error(`--only ${name}: expected ${PAIRS.map((p) => p.name).join(", ")}`);
  return { ...pair, seconds: { onnx: [], gguf: [] } };
});
for (let round = 0; round <= Number(flags.rounds); round++) {
  for (const { onnx, gguf, seconds } of chosen) {
    const ours = clock("--to", "onnx", ...onnx, "--method", flags.method);
    const method = flags.method === "nearest" ? "ggml" : flags.method;
    const theirs = clock("--to", "gguf", "--type", gguf, "--method", method);
    // The first round warms the page cache.
    if (round === 0) continue;
    seconds.onnx.push(ours);
    seconds.gguf.push(theirs);
  }
}
const results = chosen.map(({ name, gguf, seconds }) => ({
  dtype: name,
  type: gguf,
  method: flags.method,
  bytesRead: bytes,
  onnxSeconds: median(seconds.onnx),
  ggufSeconds: median(seconds.gguf),
}));
keep(flags.json, results);
console.log(
  `${(bytes / 1e6).toFixed(0)} MB of BF16, ${flags.threads} threads, ${flags.rounds} rounds, method ${flags.method}, Node ${process.version}`,
);
console.log(`load of the machine ${loadavg()[0].toFixed(1)} on ${availableParallelism()} cores`);
console.log("dtype   MB/s   GGUF    MB/s   × GGUF");
for (const { dtype, type, onnxSeconds, ggufSeconds } of results) {
  const rate = (seconds) => (bytes / 1e6 / seconds).toFixed(0);
  console.log(
    `${dtype.padEnd(6)} ${rate(onnxSeconds).padStart(5)}   ${type.padEnd(5)} ${rate(ggufSeconds).padStart(6)}   ${(ggufSeconds / onnxSeconds).toFixed(2).padStart(6)}`,
  );
}
