// Peak resident memory of the real command on a large checkpoint, under several ceilings:
//
//   npm run build && node bench/memory.mjs [--size MiB] [--vocabulary N] [--folder DIR] [--type TYPE]
//
// The checkpoint (4 GiB unless told) is a file of holes: it reads as zeros and takes no space. The promise
// is a peak of at most --memory and 150 MiB on top; the exit code is 1 when it is broken.
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
    type: { type: "string", default: "Q4_0" },
  },
});
const MiB = 2 ** 20;
const PROGRAM = fileURLToPath(new URL("../bin/run.js", import.meta.url));
/** Runs inside the command and says its peak at the end; workers say the same of the whole process. */
const REPORT = `data:text/javascript,${encodeURIComponent(
  'import { writeSync } from "node:fs"; process.on("exit", () => writeSync(2, `\\npeak ${process.resourceUsage().maxRSS}\\n`));',
)}`;

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
  return Math.max(...[...stderr.matchAll(/^peak (\d+)$/gm)].map(([, kilobytes]) => Number(kilobytes))) / 1024;
}

for (const [ceiling, threads] of [
  [1024, 2],
  [1024, 16],
  [128, 2],
  [128, 16],
  [64, 2],
]) {
  const out = join(folder, "out.gguf");
  const peak = peakOf(
    ["convert", checkpoint, "--to", "gguf", "--type", flags.type, "--out", out, "--force"].concat([
      "--memory",
      `${ceiling}MiB`,
      "--threads",
      String(threads),
    ]),
  );
  rmSync(out);
  const kept = peak <= ceiling + 150;
  if (!kept) process.exitCode = 1;
  console.log(
    `--memory ${ceiling}MiB --threads ${threads}: peak ${peak.toFixed(0)} MiB, ${kept ? "inside" : "ABOVE"} ${ceiling + 150} MiB`,
  );
}
