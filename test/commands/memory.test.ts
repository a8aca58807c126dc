import { spawnSync } from "node:child_process";
import { join } from "node:path";
import { expect, it } from "vitest";
import { packageRoot } from "../../src/base/paths.js";

const BENCH = join(packageRoot, "bench", "memory.mjs");

// Only Linux tells the peak of a process apart from its parent's.
it.runIf(process.platform === "linux")(
  "convert stays inside --memory and what is promised on top with a tokenizer of the real size",
  () => {
    const options = ["--size", "1024", "--type", "Q8_0,q8", "--ceilings", "64", "--threads", "16"];
    const { status, stdout, stderr } = spawnSync(process.execPath, [BENCH, ...options], {
      encoding: "utf8",
      env: { ...process.env, NODE_ENV: undefined, NODE_OPTIONS: undefined },
    });
    expect(stderr).toBe("");
    const peaks = [...stdout.matchAll(/--(type|dtype) \w+ .*peak (\d+) MiB/g)];
    expect(peaks.map(([, flag]) => flag)).toEqual(["type", "dtype"]);
    const [gguf = 0, onnx = 0] = peaks.map(([, , peak]) => Number(peak));
    expect(gguf).toBeLessThanOrEqual(64 + 150);
    expect(onnx).toBeLessThanOrEqual(64 + 200);
    expect(status).toBe(0);
  },
);
