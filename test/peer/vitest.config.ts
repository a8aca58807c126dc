import { fileURLToPath } from "node:url";
import { defineConfig } from "vitest/config";

/** Tests against other people's tools, which are fetched and compiled first: `npm run test:peer`. */
export default defineConfig({
  test: {
    root: fileURLToPath(new URL("../..", import.meta.url)),
    include: ["test/peer/**/*.test.ts"],
    pool: "forks",
    disableConsoleIntercept: true,
    testTimeout: 600_000,
    hookTimeout: 600_000,
  },
});
