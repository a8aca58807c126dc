import { spawnSync } from "node:child_process";
import { join } from "node:path";
import { expect, it } from "vitest";
import { packageRoot } from "../../src/base/paths.js";

const BENCH = join(packageRoot, "bench", "memory.mjs");

// Only Linux tells the peak of a process apart from its parent's.
it.runIf(process.platform === "linux").each([
  ["GGUF", "Q8_0", 150],
  ["ONNX", "q8", 200],
])(
  "convert to %s stays inside --memory and what is promised on top with a tokenizer of the real size",
  (_format, type, more) => {
    const options = ["--size", "1024", "--type", type, "--ceilings", "64", "--threads", "16"];
    const { status, stdout, stderr } = spawnSync(process.execPath, [BENCH, ...options], {
      encoding: "utf8",
      env: { ...process.env, NODE_ENV: undefined, NODE_OPTIONS: undefined },
    });
    expect(stderr).toBe("");
    const peaks = [...stdout.matchAll(/peak (\d+) MiB/g)].map(([, peak]) => Number(peak));
    expect(peaks).toHaveLength(1);
    expect(peaks[0]).toBeLessThanOrEqual(64 + more);
    expect(status).toBe(0);
  },
);
