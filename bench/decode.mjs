// How fast packages run in ONNX Runtime, beside files of the same bits in llama.cpp:
//
//   npm run build && node bench/decode.mjs [--layers N] [--vocabulary N] [--prompt N] [--generation N] [--rounds N]
//     [--threads N] [--only NAME,…] [--folder DIR] [--json FILE]
//
// A random checkpoint with E2B's row widths, heads and sharing of keys and values, of a few layers (8 unless told) and,
// so that the output matrix does not make most of the work, with fewer tokens than the real 262,144 (--vocabulary for
// those). Every contestant runs as `lapidary bench` does it, in a process of its own with one warm-up; all take
// turns, and medians of tokens a second are printed. Levels are accuracy levels of MatMulNBits; at level 0 the runtime
// decodes all of an 8-bit matrix for every token, and q4 keeps a few such.
import { execFileSync } from "node:child_process";
import { mkdtempSync, rmSync } from "node:fs";
import { availableParallelism, loadavg, tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";
import { bench, meanSpeed } from "../dist/src/pipeline/bench.js";
import { silent } from "../dist/src/pipeline/progress.js";
import { makeCheckpoint } from "./checkpoint.mjs";
import { keep } from "./keep.mjs";

/** Who runs, and beside whom it is put. */
const CONTESTANTS = [
  { name: "Q4_0", type: "Q4_0" },
  { name: "Q4_K_M", type: "Q4_K_M" },
  { name: "Q8_0", type: "Q8_0" },
  { name: "q4-32", dtype: "q4", block: 32, level: 4, beside: ["Q4_0", "Q4_K_M"] },
  { name: "q4-32-level-0", dtype: "q4", block: 32, level: 0, beside: ["Q4_0", "q4-32"] },
  { name: "q4-128", dtype: "q4", block: 128, level: 4, beside: ["Q4_0", "Q4_K_M"] },
  { name: "q4-128-level-0", dtype: "q4", block: 128, level: 0, beside: ["Q4_0", "q4-128"] },
  { name: "q2-128", dtype: "q2", block: 128, level: 4, beside: ["q4-128"] },
  { name: "q8-32", dtype: "q8", block: 32, level: 4, beside: ["Q8_0"] },
];

const { values: flags } = parseArgs({
  options: {
    layers: { type: "string", default: "8" },
    vocabulary: { type: "string", default: "16384" },
    prompt: { type: "string", default: "128" },
    generation: { type: "string", default: "32" },
    rounds: { type: "string", default: "5" },
    threads: { type: "string", default: String(availableParallelism()) },
    only: { type: "string", default: CONTESTANTS.map(({ name }) => name).join(",") },
    folder: { type: "string", default: tmpdir() },
    json: { type: "string" },
  },
});
const PROGRAM = fileURLToPath(new URL("../bin/run.js", import.meta.url));

const folder = mkdtempSync(join(flags.folder, "lapidary-bench-"));
process.once("exit", () => rmSync(folder, { recursive: true, force: true }));
const checkpoint = join(folder, "checkpoint");
await makeCheckpoint(checkpoint, {
  layers: Number(flags.layers),
  vocabulary: Number(flags.vocabulary),
  sharing: true,
});

/** Converts the checkpoint, by the fastest method: the values of codes do not matter here. */
function write(out, ...words) {
  execFileSync(process.execPath, [PROGRAM, "convert", checkpoint, "--out", out, ...words], {
    stdio: ["ignore", "ignore", "pipe"],
  });
  return out;
}

const written = new Map();
function fileOf({ type, dtype, block }) {
  const name = type ?? `${dtype}-${block}`;
  if (!written.has(name)) {
    const made =
      type === undefined
        ? write(
            join(folder, name),
            "--to",
            "onnx",
            "--dtype",
            dtype,
            "--block-size",
            block,
            "--method",
            "nearest",
          )
        : write(join(folder, `${name}.gguf`), "--to", "gguf", "--type", type, "--method", "ggml");
    written.set(name, made);
  }
  return written.get(name);
}

const median = (list) => list.toSorted((a, b) => a - b)[Math.floor(list.length / 2)];

const names = flags.only.split(",");
const strange = names.find((name) => !CONTESTANTS.some((each) => each.name === name));
if (strange !== undefined) {
  throw new Error(`--only ${strange}: expected ${CONTESTANTS.map(({ name }) => name).join(", ")}`);
}
const chosen = CONTESTANTS.filter(({ name }) => names.includes(name)).map((each) => ({
  ...each,
  file: fileOf(each),
  prompt: [],
  generation: [],
  memory: 0,
}));
const { signal } = new AbortController();
for (let round = 0; round < Number(flags.rounds); round++) {
  for (const contestant of chosen) {
    const report = await bench(
      {
        files: [contestant.file],
        ...(contestant.level === undefined ? {} : { accuracyLevels: [contestant.level] }),
        promptTokens: Number(flags.prompt),
        generationTokens: Number(flags.generation),
        repetitions: 1,
        threads: Number(flags.threads),
      },
      silent,
      signal,
    );
    const [measured] = report.files;
    contestant.prompt.push(meanSpeed(measured, "prompt"));
    contestant.generation.push(meanSpeed(measured, "generation"));
    contestant.memory = Math.max(contestant.memory, measured.peakMemory);
  }
}
const results = chosen.map(({ name, beside = [], prompt, generation, memory }) => ({
  name,
  beside: beside.filter((other) => names.includes(other)),
  layers: Number(flags.layers),
  vocabulary: Number(flags.vocabulary),
  promptTokens: Number(flags.prompt),
  generationTokens: Number(flags.generation),
  prompt: median(prompt),
  generation: median(generation),
  peakMemory: memory,
}));
keep(flags.json, results);
console.log(
  `${flags.layers} layers of E2B's widths, ${flags.vocabulary} tokens, ${flags.threads} threads, ${flags.rounds} rounds, Node ${process.version}`,
);
console.log(`load of the machine ${loadavg()[0].toFixed(1)} on ${availableParallelism()} cores`);
console.log(`${"".padEnd(16)} prompt/s  decode/s   memory   decode (prompt) beside`);
const by = new Map(results.map((result) => [result.name, result]));
for (const { name, beside, prompt, generation, peakMemory } of results) {
  const ratios = beside.map((other) => {
    const { prompt: p, generation: g } = by.get(other);
    return `${(generation / g).toFixed(2)} (${(prompt / p).toFixed(2)}) × ${other}`;
  });
  console.log(
    `${name.padEnd(16)} ${prompt.toFixed(1).padStart(8)} ${generation.toFixed(1).padStart(9)} ${(peakMemory / 2 ** 20).toFixed(0).padStart(5)} MiB   ${ratios.join(", ")}`,
  );
}
