import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, describe, expect, it } from "vitest";
import type { EngineError } from "../../../src/engines/errors.js";
import { inspectFolder, locateLlama } from "../../../src/engines/llama/platform.js";
import { thrown } from "./support/failures.js";

const root = mkdtempSync(join(tmpdir(), "lapidary-platform-"));
afterAll(() => rmSync(root, { recursive: true, force: true }));

/** A package as npm unpacks it, with empty files. */
function fakePackage(name: string, release: string, files: readonly string[]): string {
  const folder = join(root, `${name}-${release}`);
  const bins = join(folder, "bins", name);
  mkdirSync(join(folder, "dist"), { recursive: true });
  mkdirSync(bins, { recursive: true });
  writeFileSync(join(folder, "package.json"), JSON.stringify({ version: "9.8.7" }));
  const record = { buildOptions: { llamaCpp: { release } } };
  writeFileSync(join(bins, "_nlcBuildMetadata.json"), JSON.stringify(record));
  for (const file of files) writeFileSync(join(bins, file), "");
  return folder;
}

/** What the packages of 3.21.1 and 3.22.1 hold, back ends shortened. */
const SYSTEMS = [
  {
    platform: "linux",
    arch: "x64",
    name: "linux-x64",
    libraries: ["libggml-base.so", "libggml.v0.5.0.so", "libllama.v0.5.0.so"],
    others: ["libllama-common.so", "libggml-cpu-haswell.so", "llama-addon.node"],
  },
  {
    platform: "darwin",
    arch: "arm64",
    name: "mac-arm64-metal",
    libraries: ["libggml-base.dylib", "libggml.metal.v0.4.0.dylib", "libllama.metal.v0.4.0.dylib"],
    others: ["libllama-common.dylib", "libggml-cpu-apple_m1.so", "libggml-metal.so", "libggml-blas.so"],
  },
  {
    platform: "darwin",
    arch: "x64",
    name: "mac-x64",
    libraries: ["libggml-base.dylib", "libggml.v0.4.0.dylib", "libllama.v0.4.0.dylib"],
    others: ["libllama-common.dylib", "libggml-cpu-haswell.so", "libggml-blas.so"],
  },
  {
    platform: "win32",
    arch: "x64",
    name: "win-x64",
    libraries: ["ggml-base.dll", "ggml.v0.4.0.dll", "llama.v0.4.0.dll"],
    others: ["llama-common.dll", "ggml-cpu-haswell.dll", "llama-addon.lib"],
  },
  {
    platform: "win32",
    arch: "arm64",
    name: "win-arm64",
    libraries: ["ggml-base.dll", "ggml.v0.4.0.dll", "llama.v0.4.0.dll"],
    others: ["llama-common.dll", "ggml-cpu.dll", "llama-addon.lib"],
  },
];

function notFound(): string {
  throw new Error("Cannot find module");
}

describe("locateLlama", () => {
  it.each(SYSTEMS)("finds the libraries of $name", ({ platform, arch, name, libraries, others }) => {
    const release = /v([\d.]+)\./.exec(libraries[2]!)![1]!;
    const folder = fakePackage(name, release, [...libraries, ...others]);
    const asked: string[] = [];
    const found = locateLlama({
      platform,
      arch,
      resolve(packageName) {
        asked.push(packageName);
        return join(folder, "dist", "index.js");
      },
    });
    const bins = join(folder, "bins", name);
    expect(asked).toEqual([`@node-llama-cpp/${name}`]);
    expect(found).toEqual({
      package: `@node-llama-cpp/${name} 9.8.7`,
      release,
      folder: bins,
      libraries: {
        base: join(bins, libraries[0]!),
        ggml: join(bins, libraries[1]!),
        llama: join(bins, libraries[2]!),
      },
    });
  });

  it("says how to install a missing package", () => {
    const error = thrown(() => locateLlama({ platform: "linux", arch: "x64", resolve: notFound }));
    expect(error.code).toBe("engine-missing");
    expect(error.exitCode).toBe(1);
    expect(error.message).toContain("@node-llama-cpp/linux-x64");
    expect(error.advice).toContain("npm install --include=optional");
  });

  it("refuses a system without a package", () => {
    const error = thrown(() => locateLlama({ platform: "freebsd", arch: "x64" }));
    expect(error.code).toBe("engine-platform");
    expect(error.message).toContain("freebsd");
  });
});

/** The error about a package with these files. */
function refusal(name: string, release: string, files: readonly string[]): EngineError {
  const folder = join(fakePackage(name, release, files), "bins", name);
  return thrown(() => inspectFolder(folder, "a package"));
}

describe("inspectFolder", () => {
  const files = ["libggml-base.so", "libggml.v0.6.0.so", "libllama.v0.6.0.so"];

  it("refuses a release whose structures are not known", () => {
    const error = refusal("linux-x64", "v0.6.0", files);
    expect(error.code).toBe("engine-release");
    expect(error.message).toContain("a package brings llama.cpp 0.6.0");
  });

  it("refuses a folder with a library missing or twice, or without a build record", () => {
    expect(refusal("linux-x64", "v0.5.0", files.slice(0, 2)).code).toBe("engine-damaged");
    expect(refusal("linux-arm64", "v0.5.0", [...files, "libllama.v0.5.0.so"]).code).toBe("engine-damaged");
    expect(thrown(() => inspectFolder(root, "a package")).code).toBe("engine-damaged");
  });
});
