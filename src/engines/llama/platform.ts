import { readdirSync, readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { dirname, join } from "node:path";
import { EngineError } from "../errors.js";
import { LAYOUTS } from "./layouts.js";

/** Ready-made llama.cpp libraries on this machine: files, and the release they were built from. */
export interface Installation {
  /** npm package that brought them, with its version. */
  readonly package: string;
  /** Release of llama.cpp, such as `0.5.0`: a key of `LAYOUTS`. */
  readonly release: string;
  /** Folder of all libraries; the CPU and GPU back ends are chosen from it at run time. */
  readonly folder: string;
  /** Full paths in the order in which they have to be loaded. */
  readonly libraries: { readonly base: string; readonly ggml: string; readonly llama: string };
}

export interface LocateOptions {
  readonly platform?: string;
  readonly arch?: string;
  /** Finds the main file of a package, or throws. */
  readonly resolve?: (name: string) => string;
}

/** `process.platform`-`process.arch` → package under `@node-llama-cpp/`, which is also its folder's name. */
const PACKAGES: Readonly<Record<string, string>> = {
  "linux-x64": "linux-x64",
  "linux-arm64": "linux-arm64",
  "darwin-arm64": "mac-arm64-metal",
  "darwin-x64": "mac-x64",
  "win32-x64": "win-x64",
  "win32-arm64": "win-arm64",
};

/**
 * Names differ by system, flavour and release: `libllama.v0.5.0.so`, `libllama.metal.v0.4.0.dylib`,
 * `llama.v0.4.0.dll`, and without a release `libggml-base.so`.
 */
const LIBRARY_NAMES = {
  base: /^(?:lib)?ggml-base\.(?:so|dylib|dll)$/,
  ggml: /^(?:lib)?ggml(?:\.[a-z]+)?\.v[\d.]+\.(?:so|dylib|dll)$/,
  llama: /^(?:lib)?llama(?:\.[a-z]+)?\.v[\d.]+\.(?:so|dylib|dll)$/,
};

/** The release named in a package's build record, without its `v`. */
function releaseOf(folder: string, packageName: string): string {
  const file = join(folder, "_nlcBuildMetadata.json");
  let record: unknown;
  try {
    record = JSON.parse(readFileSync(file, "utf8"));
  } catch (cause) {
    throw new EngineError("engine-damaged", `${file} of ${packageName} cannot be read.`, {
      advice: "Install lapidary's packages again.",
      cause,
    });
  }
  const { buildOptions } = record as { buildOptions?: { llamaCpp?: { release?: unknown } } };
  const release = buildOptions?.llamaCpp?.release;
  if (typeof release !== "string") {
    throw new EngineError("engine-damaged", `${file} does not name a release of llama.cpp.`);
  }
  return release.replace(/^v/, "");
}

function packageVersionOf(folder: string): string {
  const manifest: unknown = JSON.parse(readFileSync(join(folder, "package.json"), "utf8"));
  return (manifest as { version: string }).version;
}

/**
 * Describes the libraries in a folder as a package ships them.
 *
 * @param packageName for messages
 * @throws EngineError when a library is missing or the release is not one whose structures are known
 */
export function inspectFolder(folder: string, packageName: string): Installation {
  const release = releaseOf(folder, packageName);
  if (LAYOUTS[release] === undefined) {
    throw new EngineError(
      "engine-release",
      `${packageName} brings llama.cpp ${release}, but only ${Object.keys(LAYOUTS).join(" and ")} are known to this version of lapidary.`,
      { advice: "Install the version of the package that lapidary's package.json names." },
    );
  }
  const names = readdirSync(folder);
  const find = (pattern: RegExp): string => {
    const found = names.filter((name) => pattern.test(name));
    if (found.length === 1 && found[0] !== undefined) return join(folder, found[0]);
    throw new EngineError(
      "engine-damaged",
      `${folder} of ${packageName} holds ${found.length} libraries named like ${pattern.source}, not one.`,
      { advice: "Install lapidary's packages again." },
    );
  };
  const libraries = {
    base: find(LIBRARY_NAMES.base),
    ggml: find(LIBRARY_NAMES.ggml),
    llama: find(LIBRARY_NAMES.llama),
  };
  return { package: packageName, release, folder, libraries };
}

/**
 * Finds the llama.cpp libraries for this machine among lapidary's optional dependencies.
 *
 * @throws EngineError when the system has no package, or the package is missing or not one that is known
 */
export function locateLlama(options: LocateOptions = {}): Installation {
  const { platform = process.platform, arch = process.arch } = options;
  const name = PACKAGES[`${platform}-${arch}`];
  if (name === undefined) {
    throw new EngineError("engine-platform", `There is no ready-made llama.cpp for ${platform} on ${arch}.`, {
      advice: `Run the model on one of: ${Object.keys(PACKAGES).join(", ")}.`,
    });
  }
  const packageName = `@node-llama-cpp/${name}`;
  const resolve = options.resolve ?? createRequire(import.meta.url).resolve;
  let root: string;
  try {
    root = dirname(dirname(resolve(packageName)));
  } catch (cause) {
    throw new EngineError("engine-missing", `The optional package ${packageName} is not installed.`, {
      advice:
        "Run `npm install --include=optional` where lapidary is installed; on Linux the package needs glibc.",
      cause,
    });
  }
  return inspectFolder(join(root, "bins", name), `${packageName} ${packageVersionOf(root)}`);
}
