import { spawnSync } from "node:child_process";
import { join } from "node:path";
import { expect, it } from "vitest";
import { packageRoot } from "../../src/base/paths.js";

const BENCH = join(packageRoot, "bench", "memory.mjs");

// Only Linux tells the peak of a process apart from its parent's.
it.runIf(process.platform === "linux")(
  "convert stays inside --memory and 150 MiB with a tokenizer of the real size",
  () => {
    const options = ["--size", "1024", "--type", "Q8_0", "--ceilings", "64", "--threads", "16"];
    const { status, stdout, stderr } = spawnSync(process.execPath, [BENCH, ...options], {
      encoding: "utf8",
      env: { ...process.env, NODE_ENV: undefined, NODE_OPTIONS: undefined },
    });
    expect(stderr).toBe("");
    const peaks = [...stdout.matchAll(/peak (\d+) MiB/g)].map(([, peak]) => Number(peak));
    expect(peaks).toHaveLength(1);
    expect(peaks[0]).toBeLessThanOrEqual(64 + 150);
    expect(status).toBe(0);
  },
);
