// Peak resident memory of the real command on a large checkpoint, under several ceilings:
//
//   npm run build && node bench/memory.mjs [--size MiB] [--vocabulary N] [--folder DIR] [--type TYPE,…]
//     [--ceilings MiB,…] [--threads N,…]
//
// The checkpoint (4 GiB unless told) is a file of holes: it reads as zeros and takes no space. The promise
// is a peak of at most --memory and 150 MiB on top, of 200 MiB for ONNX, which is what dtypes such as q4 are
// written in; the exit code is 1 when it is broken.
import { spawnSync } from "node:child_process";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";
import { makeCheckpoint } from "./checkpoint.mjs";

const { values: flags } = parseArgs({
  options: {
    size: { type: "string", default: "4096" },
    // What every published Gemma 4 has.
    vocabulary: { type: "string", default: "262144" },
    folder: { type: "string", default: tmpdir() },
    type: { type: "string", default: "BF16,Q8_0,Q4_0" },
    ceilings: { type: "string", default: "1024,256,128,64" },
    threads: { type: "string", default: "2,16" },
  },
});
const MiB = 2 ** 20;
const PROGRAM = fileURLToPath(new URL("../bin/run.js", import.meta.url));
/**
 * Runs inside the command and says its peak at the end. Linux counts the parent's peak in a child's
 * resourceUsage, so there the high-water mark of the process's own pages is read.
 */
const REPORT = `data:text/javascript,${encodeURIComponent(`
  import { readFileSync, writeSync } from "node:fs";
  process.on("exit", () => {
    const own = process.platform === "linux" && /^VmHWM:\\s*(\\d+) kB$/m.exec(readFileSync("/proc/self/status", "utf8"));
    writeSync(2, "\\npeak " + (own ? own[1] : process.resourceUsage().maxRSS) + "\\n");
  });
`)}`;

const folder = mkdtempSync(join(flags.folder, "lapidary-memory-"));
process.once("exit", () => rmSync(folder, { recursive: true, force: true }));
const checkpoint = join(folder, "checkpoint");
await makeCheckpoint(checkpoint, {
  bytes: Number(flags.size) * MiB,
  vocabulary: Number(flags.vocabulary),
  sparse: true,
});

function peakOf(args) {
  const { status, stderr } = spawnSync(process.execPath, ["--import", REPORT, PROGRAM, ...args], {
    encoding: "utf8",
  });
  if (status !== 0) throw new Error(`lapidary ${args.join(" ")} ended with ${status}: ${stderr}`);
  const peak = /^peak (\d+)$/m.exec(stderr)?.[1];
  if (peak === undefined) throw new Error(`lapidary ${args.join(" ")} did not say its peak: ${stderr}`);
  return Number(peak) / 1024;
}

const cases = flags.type
  .split(",")
  .flatMap((type) =>
    flags.ceilings
      .split(",")
      .flatMap((ceiling) => flags.threads.split(",").map((threads) => ({ type, ceiling, threads }))),
  );
for (const { type, ceiling, threads } of cases) {
  const out = join(folder, "out");
  // Types of GGUF are written in capitals, dtypes of ONNX are not.
  const onnx = type === type.toLowerCase();
  const what = [onnx ? "--dtype" : "--type", type, "--memory", `${ceiling}MiB`, "--threads", threads];
  const to = onnx ? ["onnx", "--out", out] : ["gguf", "--out", `${out}.gguf`];
  const peak = peakOf(["convert", checkpoint, "--force", ...what, "--to", ...to]);
  for (const made of [out, `${out}.gguf`]) rmSync(made, { recursive: true, force: true });
  const limit = Number(ceiling) + (onnx ? 200 : 150);
  if (peak > limit) process.exitCode = 1;
  console.log(
    `${what.join(" ")}: peak ${peak.toFixed(0)} MiB, ${peak <= limit ? "inside" : "ABOVE"} ${limit} MiB`,
  );
}
