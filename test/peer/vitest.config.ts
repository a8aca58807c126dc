import { fileURLToPath } from "node:url";
import { defineConfig } from "vitest/config";

/** Tests that `npm test` runs a part of. */
const campaigns = ["test/pipeline/llama-quantize.test.ts", "test/verify/figures.test.ts"];

/**
 * Tests against other people's tools, which are fetched and compiled first, and long campaigns in full:
 * `npm run test:peer`.
 */
export default defineConfig({
  test: {
    root: fileURLToPath(new URL("../..", import.meta.url)),
    include: ["test/peer/**/*.test.ts", ...campaigns],
    env: { LAPIDARY_CAMPAIGN: "full" },
    pool: "forks",
    disableConsoleIntercept: true,
    testTimeout: 600_000,
    hookTimeout: 600_000,
  },
});
