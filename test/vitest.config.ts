import { availableParallelism } from "node:os";
import { fileURLToPath } from "node:url";
import { defineConfig } from "vitest/config";
import { LongestFirst } from "./support/longest-first.js";

/**
 * Files that leave nothing behind in their process: no llama.cpp in it, no output caught, no exit code set. They
 * share processes, which load what they import once: 40 files in 16 s instead of 45 s.
 */
const shared = ["base", "calibration", "cli", "formats", "gemma4", "plan"].map(
  (room) => `test/${room}/**/*.test.ts`,
);

export default defineConfig({
  test: {
    root: fileURLToPath(new URL("..", import.meta.url)),
    pool: "forks",
    // Two files side by side even where vitest would leave a core to the editor.
    maxWorkers: Math.max(2, availableParallelism() - 1),
    sequence: { sequencer: LongestFirst },
    // @oclif/test captures output by replacing process.stdout.write; vitest's own interception would hide it.
    disableConsoleIntercept: true,
    testTimeout: 60_000,
    hookTimeout: 60_000,
    projects: [
      {
        extends: true,
        test: {
          name: "alone",
          include: ["test/**/*.test.ts"],
          exclude: ["test/peer/**", "test/examples/browser.test.ts", ...shared],
        },
      },
      { extends: true, test: { name: "shared", include: shared, isolate: false } },
    ],
  },
});
