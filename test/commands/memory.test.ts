import { execFileSync } from "node:child_process";
import { join } from "node:path";
import { expect, it } from "vitest";
import { packageRoot } from "../../src/base/paths.js";

// The peak of a process without its parent's is only known on Linux.
it.runIf(process.platform === "linux")(
  "convert stays inside --memory and 150 MiB with a tokenizer of the real size",
  () => {
    const text = execFileSync(
      process.execPath,
      [
        join(packageRoot, "bench", "memory.mjs"),
        ...["--size", "1024", "--type", "Q4_0", "--ceilings", "64", "--threads", "2,16"],
      ],
      { encoding: "utf8", env: { ...process.env, NODE_ENV: undefined, NODE_OPTIONS: undefined } },
    );
    const peaks = [...text.matchAll(/peak (\d+) MiB/g)].map(([, peak]) => Number(peak));
    expect(peaks).toHaveLength(2);
    for (const peak of peaks) expect(peak).toBeLessThanOrEqual(64 + 150);
  },
);
