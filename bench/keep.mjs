// Keeps what a bench has measured as JSON, with the machine and the versions it was measured on.
import { mkdirSync, writeFileSync } from "node:fs";
import { availableParallelism, cpus, loadavg, totalmem } from "node:os";
import { dirname } from "node:path";
import { packageVersion } from "../dist/src/base/paths.js";
import { locateLlama } from "../dist/src/engines/llama/platform.js";

/** @param path where to write; nothing is written without one */
export function keep(path, results) {
  if (path === undefined) return;
  const machine = {
    lapidary: packageVersion(),
    node: process.version,
    llama: locateLlama().release,
    platform: `${process.platform} ${process.arch}`,
    processor: cpus()[0]?.model ?? "unknown",
    cores: availableParallelism(),
    memory: totalmem(),
    load: loadavg()[0],
    date: new Date().toISOString(),
  };
  mkdirSync(dirname(path), { recursive: true });
  writeFileSync(path, `${JSON.stringify({ machine, results }, null, 2)}\n`);
}
