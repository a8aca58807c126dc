// Whole commands beside llama-quantize: a BF16 GGUF to a mix, on all cores, both as processes of their own.
//
//   npm run build && node bench/quantize.mjs [--size MiB] [--rounds N] [--threads N] [--memory MiB]
//     [--only MIX,…] [--folder DIR] [--json FILE]
//
// lapidary runs as its command (start-up, plan, journal, flush to the disk); llama-quantize is
// `llama_model_quantize` of the library that npm ships, called by a small process. Each mix is written plain and
// with an importance matrix by ggml's method, then by our search with it. Contestants take turns; medians of wall
// time. Files of ggml's method are compared with llama.cpp's, byte for byte, tensor by tensor.
import { execFileSync } from "node:child_process";
import { createHash } from "node:crypto";
import { mkdtempSync, rmSync, statSync, writeFileSync } from "node:fs";
import { availableParallelism, loadavg, tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";
import { openFile } from "../dist/formats/file-source.js";
import { openGguf } from "../dist/formats/gguf/read.js";
import { MIXES } from "../dist/src/plan/mixes.js";
import { makeCheckpoint } from "./checkpoint.mjs";
import { keep } from "./keep.mjs";

const { values: flags } = parseArgs({
  options: {
    size: { type: "string", default: "1024" },
    rounds: { type: "string", default: "3" },
    threads: { type: "string", default: String(availableParallelism()) },
    memory: { type: "string", default: "1024" },
    only: { type: "string", default: "Q4_K_M" },
    folder: { type: "string", default: tmpdir() },
    json: { type: "string" },
  },
});
const PROGRAM = fileURLToPath(new URL("../bin/run.js", import.meta.url));
const PEER = fileURLToPath(new URL("./llama-quantize.mjs", import.meta.url));

const folder = mkdtempSync(join(flags.folder, "lapidary-bench-"));
process.once("exit", () => rmSync(folder, { recursive: true, force: true }));
await makeCheckpoint(folder, { bytes: Number(flags.size) * 2 ** 20 });
const source = join(folder, "source.gguf");
const imatrix = join(folder, "imatrix.dat");
const ours = join(folder, "ours.gguf");
const theirs = join(folder, "theirs.gguf");

function lapidary(...words) {
  execFileSync(process.execPath, [PROGRAM, ...words], { stdio: ["ignore", "ignore", "pipe"] });
}

const int = (value) => Buffer.from(Int32Array.of(value).buffer);

/** An importance matrix in the old format, which both read. */
async function writeImatrix() {
  const { tensors } = await openGguf(source);
  const weights = tensors.filter(
    ({ name, ne }) => name.startsWith("blk.") && name.endsWith("weight") && ne.length > 1,
  );
  let state = 1;
  const random = () => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    return state / 2 ** 32;
  };
  const parts = weights.flatMap(({ name, ne }) => {
    const values = Float32Array.from({ length: ne[0] * (ne[2] ?? 1) }, () => random() ** 4 + 1e-4);
    return [int(name.length), Buffer.from(name), int(1), int(values.length), Buffer.from(values.buffer)];
  });
  writeFileSync(imatrix, Buffer.concat([int(weights.length), ...parts]));
}

async function hashes(path) {
  const { tensors } = await openGguf(path);
  const file = await openFile(path);
  const found = new Map();
  for (const { name, type, offset, byteLength } of tensors) {
    const bytes = Buffer.alloc(byteLength);
    await file.read(bytes, offset);
    found.set(name, `${type} ${createHash("sha256").update(bytes).digest("hex")}`);
  }
  await file.close();
  return found;
}

function clock(work) {
  const start = performance.now();
  work();
  return (performance.now() - start) / 1000;
}

const median = (list) => list.toSorted((a, b) => a - b)[Math.floor(list.length / 2)];

lapidary("convert", folder, "--to", "gguf", "--type", "BF16", "--match-converter", "--out", source);
await writeImatrix();
const bytes = statSync(source).size;
const results = [];
for (const mix of flags.only.split(",")) {
  const { fileType } = MIXES.find(({ name }) => name === mix);
  const limits = ["--threads", flags.threads, "--memory", `${flags.memory}MiB`];
  const write = (...words) =>
    lapidary("quantize", source, "--type", mix, "--out", ours, "--keep-unused-kv", ...limits, ...words);
  const peer = (...words) =>
    execFileSync(process.execPath, [PEER, source, theirs, String(fileType), flags.threads, ...words], {
      stdio: ["ignore", "ignore", "pipe"],
    });
  const contestants = new Map([
    ["plain, ggml's method", { run: () => write("--method", "ggml"), output: ours }],
    ["plain, llama-quantize", { run: () => peer(), output: theirs, same: ours }],
    [
      "importance, ggml's method",
      { run: () => write("--method", "ggml", "--imatrix", imatrix), output: ours },
    ],
    ["importance, llama-quantize", { run: () => peer(imatrix), output: theirs, same: ours }],
    ["importance, search", { run: () => write("--imatrix", imatrix), output: ours }],
  ]);
  const times = new Map([...contestants.keys()].map((name) => [name, []]));
  for (let round = 0; round < Number(flags.rounds); round++) {
    for (const [name, { run, output, same }] of contestants) {
      rmSync(output, { force: true });
      execFileSync("sync");
      times.get(name).push(clock(run));
      if (same === undefined || round > 0) continue;
      const [a, b] = [await hashes(ours), await hashes(theirs)];
      for (const [tensor, hash] of a) {
        if (b.get(tensor) !== hash) throw new Error(`${mix}: ${tensor} differs from llama-quantize's`);
      }
    }
  }
  const peers = { plain: "plain, llama-quantize", importance: "importance, llama-quantize" };
  for (const [name, list] of times) {
    const seconds = median(list);
    const ratio = median(times.get(peers[name.split(",")[0]])) / seconds;
    results.push({ mix, name, seconds, bytesRead: bytes, ratio });
  }
}
keep(flags.json, results);
console.log(`${(bytes / 1e6).toFixed(0)} MB of BF16, ${flags.threads} threads, Node ${process.version}`);
console.log(`load of the machine ${loadavg()[0].toFixed(1)} on ${availableParallelism()} cores`);
for (const { mix, name, seconds, bytesRead, ratio } of results) {
  const rate = (bytesRead / 1e6 / seconds).toFixed(0);
  console.log(
    `${mix.padEnd(8)} ${name.padEnd(28)} ${seconds.toFixed(2).padStart(7)} s ${rate.padStart(5)} MB/s  ${ratio.toFixed(2)} ×`,
  );
}
