import { fileURLToPath } from "node:url";
import { defineConfig } from "vitest/config";

/** The package in a real browser, which has to be installed: `npm run test:browser`. */
export default defineConfig({
  test: {
    root: fileURLToPath(new URL("../..", import.meta.url)),
    include: ["test/examples/browser.test.ts"],
    pool: "forks",
    testTimeout: 90_000,
    hookTimeout: 90_000,
  },
});
