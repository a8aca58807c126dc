import { availableParallelism } from "node:os";
import { fileURLToPath } from "node:url";
import { defineConfig } from "vitest/config";

export default defineConfig({
  test: {
    root: fileURLToPath(new URL("..", import.meta.url)),
    include: ["test/**/*.test.ts"],
    exclude: ["test/peer/**"],
    pool: "forks",
    // Two files side by side even where vitest would leave a core to the editor.
    maxWorkers: Math.max(2, availableParallelism() - 1),
    // @oclif/test captures output by replacing process.stdout.write; vitest's own interception would hide it.
    disableConsoleIntercept: true,
    testTimeout: 60_000,
    hookTimeout: 60_000,
  },
});
