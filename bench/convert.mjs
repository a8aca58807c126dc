// How fast conversion is, against `cp` of the same file in the same run:
//
//   npm run build && node bench/convert.mjs [--size MiB] [--rounds N] [--threads N] [--memory MiB]
//     [--folder DIR] [--only TYPE,…] [--json FILE]
//
// A BF16 checkpoint of normally distributed weights (1 GiB unless told) is converted by the real code,
// journal and flush to the disk included. All contestants take turns; medians are printed, in MB (10^6
// bytes) of BF16 read per second of wall time and per second of processor time, which other work on the
// machine disturbs less. `cp` is timed as it is and with a flush of its copy: the pipeline flushes.
import { execFileSync } from "node:child_process";
import { mkdtempSync, rmSync, statSync } from "node:fs";
import { availableParallelism, loadavg, tmpdir } from "node:os";
import { join } from "node:path";
import { parseArgs } from "node:util";
import { openCheckpoint } from "../dist/formats/safetensors/read.js";
import { bindCheckpoint } from "../dist/src/gemma4/bind.js";
import { readConfig } from "../dist/src/gemma4/config.js";
import { planCheckpoint } from "../dist/src/plan/checkpoint.js";
import { runPlan } from "../dist/src/quantize/quantize.js";
import { makeCheckpoint } from "./checkpoint.mjs";
import { keep } from "./keep.mjs";

const { values: flags } = parseArgs({
  options: {
    size: { type: "string", default: "1024" },
    rounds: { type: "string", default: "5" },
    threads: { type: "string", default: String(availableParallelism()) },
    memory: { type: "string", default: "1024" },
    folder: { type: "string", default: tmpdir() },
    only: { type: "string", default: "BF16,F16,F32,Q8_0,Q4_0,Q6_K" },
    json: { type: "string" },
  },
});
const MiB = 2 ** 20;
const threads = Number(flags.threads);

const folder = mkdtempSync(join(flags.folder, "lapidary-bench-"));
process.once("exit", () => rmSync(folder, { recursive: true, force: true }));

await makeCheckpoint(folder, { bytes: Number(flags.size) * MiB });
const config = await readConfig(folder);
const checkpoint = await openCheckpoint(folder);
const { weights } = bindCheckpoint(config, checkpoint);
const input = checkpoint.shards[0].path;
const bytes = statSync(input).size;
const output = join(folder, "out.gguf");

async function convert(mix) {
  const plan = planCheckpoint({
    config,
    weights,
    shards: checkpoint.shards,
    keepUnusedKv: true,
    mix,
    method: "ggml",
  });
  await runPlan({
    plan,
    output,
    metadata: [["general.architecture", { type: "string", value: "gemma4" }]],
    threads,
    memoryBytes: Number(flags.memory) * MiB,
  });
}

/** Runs something; returns its seconds of wall time and of processor time. */
async function clock(work) {
  const before = process.cpuUsage();
  const start = performance.now();
  const outside = await work();
  const wall = (performance.now() - start) / 1000;
  const { user, system } = process.cpuUsage(before);
  return { wall, cpu: outside ?? (user + system) / 1e6 };
}

/** Runs a command line in bash; returns its processor time. */
function shell(command) {
  const script = `TIMEFORMAT='%U %S'; time ${command}`;
  const text = execFileSync("bash", ["-c", `{ ${script}; } 2>&1`, input, output], { encoding: "utf8" });
  const [user, system] = text.trim().split(" ").map(Number);
  return user + system;
}

const contestants = new Map([
  ["cp", () => shell('cp --reflink=never "$0" "$1"')],
  ["cp + flush", () => shell('{ cp --reflink=never "$0" "$1" && sync "$1"; }')],
  ...flags.only.split(",").map((mix) => [mix, () => convert(mix)]),
]);
const times = new Map([...contestants.keys()].map((name) => [name, []]));

for (let round = 0; round <= Number(flags.rounds); round++) {
  // Each follows each in turn: a virtual machine's memory is slower to take up after a while unused, so
  // who comes after a long pause or a small file is slower.
  const order = [...contestants];
  for (let at = order.length - 1; at > 0; at--) {
    const other = (round * 7 + at * 3) % (at + 1);
    [order[at], order[other]] = [order[other], order[at]];
  }
  for (const [name, run] of order) {
    // Nobody pays for what the one before has left in the page cache.
    execFileSync("sync");
    const spent = await clock(run);
    rmSync(output);
    // The first round warms the page cache.
    if (round > 0) times.get(name).push(spent);
  }
}

const median = (list) => list.toSorted((a, b) => a - b)[Math.floor(list.length / 2)];
const rate = (name, clock) => bytes / 1e6 / median(times.get(name).map((spent) => spent[clock]));
console.log(
  `${(bytes / 1e6).toFixed(0)} MB of BF16, ${flags.rounds} rounds, ${threads} threads, Node ${process.version}`,
);
console.log(`load of the machine ${loadavg()[0].toFixed(1)} on ${availableParallelism()} cores`);
console.log("             wall MB/s   × cp   × cp + flush   processor MB/s   × cp   seconds");
for (const [name, list] of times) {
  const walls = list.map(({ wall }) => wall);
  const cells = [
    rate(name, "wall").toFixed(0).padStart(9),
    (rate(name, "wall") / rate("cp", "wall")).toFixed(2).padStart(6),
    (rate(name, "wall") / rate("cp + flush", "wall")).toFixed(2).padStart(14),
    rate(name, "cpu").toFixed(0).padStart(16),
    (rate(name, "cpu") / rate("cp", "cpu")).toFixed(2).padStart(6),
    `${Math.min(...walls).toFixed(2)}–${Math.max(...walls).toFixed(2)}`.padStart(9),
  ];
  console.log(`${name.padEnd(12)} ${cells.join(" ")}`);
}
const peak = process.resourceUsage().maxRSS * 1024;
console.log(`peak resident memory ${(peak / MiB).toFixed(0)} MiB under a ceiling of ${flags.memory} MiB`);
keep(
  flags.json,
  [...times].map(([name, seconds]) => ({ name, bytesRead: bytes, seconds })),
);
