// The engine beside llama.cpp's own tools, in one run, in turns: speed against llama-bench, and the
// comparison of two files against llama-perplexity.
//
//   npm run build && npm run test:peer && node bench/engine.mjs [--threads N] [--rounds N]
//
// `npm run test:peer` compiles the tools, once, into .cache/peer.
import { execFileSync } from "node:child_process";
import { existsSync, mkdtempSync, readdirSync, rmSync } from "node:fs";
import { availableParallelism, loadavg, tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";

const { values: flags } = parseArgs({
  options: {
    threads: { type: "string", default: String(availableParallelism()) },
    rounds: { type: "string", default: "5" },
    chunks: { type: "string", default: "40" },
  },
});
const root = fileURLToPath(new URL("..", import.meta.url));
const peers = join(root, ".cache", "peer");
const version = existsSync(peers) ? readdirSync(peers)[0] : undefined;
const tool = (name) => join(peers, version ?? "", "bin", name);
for (const name of ["llama-bench", "llama-perplexity"]) {
  if (!existsSync(tool(name))) throw new Error(`${name} is not built; run npm run test:peer first`);
}

const folder = mkdtempSync(join(tmpdir(), "lapidary-bench-"));
process.once("exit", () => rmSync(folder, { recursive: true, force: true }));
const run = (program, args) =>
  execFileSync(program, args, { cwd: root, encoding: "utf8", stdio: ["ignore", "pipe", "ignore"] });
const lapidary = (...args) => run(process.execPath, [join(root, "bin", "run.js"), ...args]);
lapidary("convert", "fixtures/nano-e", "--to", "gguf", "--type", "F32,Q4_0", "--out", folder);
const reference = join(folder, "nano-e-F32.gguf");
const model = join(folder, "nano-e-Q4_0.gguf");
const text = "fixtures/text/eval.txt";
const { threads, chunks } = flags;

const contestants = {
  "prompt 512, tokens/s": [
    () =>
      JSON.parse(lapidary("bench", model, "-n", "1", "--threads", threads, "--json")).files[0].speeds[0].mean,
    () =>
      JSON.parse(run(tool("llama-bench"), ["-m", model, "-n", "0", "-t", threads, "-o", "json"]))[0].avg_ts,
  ],
  "generation 128, tokens/s": [
    () =>
      JSON.parse(lapidary("bench", model, "-p", "1", "--threads", threads, "--json")).files[0].speeds[1].mean,
    () =>
      JSON.parse(run(tool("llama-bench"), ["-m", model, "-p", "0", "-t", threads, "-o", "json"]))[0].avg_ts,
  ],
  // llama-perplexity runs twice for one comparison: it stores the reference's logits, then reads them.
  "comparison, windows/s": [
    () => {
      const start = performance.now();
      lapidary(
        "verify",
        model,
        "--reference",
        reference,
        "--text",
        text,
        "--chunks",
        chunks,
        "--threads",
        threads,
      );
      // Four long windows of half a window each are run on top.
      return (Number(chunks) + 2) / ((performance.now() - start) / 1000);
    },
    () => {
      const logits = join(folder, "logits.kld");
      const common = [
        "-f",
        text,
        "--chunks",
        chunks,
        "-t",
        threads,
        "-c",
        "512",
        "--kl-divergence-base",
        logits,
      ];
      const start = performance.now();
      run(tool("llama-perplexity"), ["-m", reference, ...common]);
      run(tool("llama-perplexity"), ["-m", model, ...common, "--kl-divergence"]);
      return Number(chunks) / ((performance.now() - start) / 1000);
    },
  ],
};

const median = (values) => values.toSorted((a, b) => a - b)[Math.floor(values.length / 2)];
console.log(`${threads} threads, ${flags.rounds} rounds, load ${loadavg()[0].toFixed(1)}`);
console.log(`${"".padEnd(28)}${"lapidary".padStart(10)}${"llama.cpp".padStart(11)}   ratio`);
for (const [name, [ours, theirs]] of Object.entries(contestants)) {
  const results = [[], []];
  for (let round = 0; round < Number(flags.rounds); round++) {
    results[0].push(ours());
    results[1].push(theirs());
  }
  const [a, b] = results.map(median);
  console.log(
    `${name.padEnd(28)}${a.toFixed(1).padStart(10)}${b.toFixed(1).padStart(11)}   ${(a / b).toFixed(2)}`,
  );
}
