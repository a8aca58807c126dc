import { execFile } from "node:child_process";
import { existsSync } from "node:fs";
import { mkdir, mkdtemp, readdir, rename, rm, symlink } from "node:fs/promises";
import { join } from "node:path";
import { promisify } from "node:util";
import { packageRoot } from "../../src/base/paths.js";
import { locateLlama } from "../../src/engines/llama/platform.js";

const execute = promisify(execFile);

/** Output of a tool that may be kept; llama.cpp's logs are a few hundred kilobytes. */
const maxOutput = 64 * 1024 * 1024;

/** Runs a program and gives what it printed, both streams after one another. */
export async function run(program: string, args: readonly string[], cwd?: string): Promise<string> {
  const { stdout, stderr } = await execute(program, args, { cwd, maxBuffer: maxOutput });
  return stdout + stderr;
}

/** Makes a file or folder once: whoever comes first puts it in its place, whole. */
async function once(path: string, make: (temporary: string) => Promise<void>): Promise<string> {
  if (existsSync(path)) return path;
  const folder = await mkdtemp(`${path}.`);
  const temporary = join(folder, "made");
  try {
    await make(temporary);
    // Another process may have been faster; a folder in the way is then as good as ours.
    await rename(temporary, path).catch((error: unknown) => {
      if (!existsSync(path)) throw error;
    });
  } finally {
    await rm(folder, { recursive: true, force: true });
  }
  return path;
}

/**
 * Sources of the llama.cpp release whose libraries are installed. They come as a git bundle in the npm
 * package node-llama-cpp of the same version, and stay in `.cache/peer`.
 */
export async function llamaSources(): Promise<string> {
  const version = locateLlama().package.split(" ").at(-1) ?? "";
  const cache = join(packageRoot, ".cache", "peer", version);
  await mkdir(cache, { recursive: true });
  return once(join(cache, "llama.cpp"), async (temporary) => {
    const name = `node-llama-cpp-${version}.tgz`;
    await mkdir(`${temporary}-package`);
    await run("npm", ["pack", `node-llama-cpp@${version}`, "--silent"], `${temporary}-package`);
    await run("tar", ["-xzf", name, "package/llama/gitRelease.bundle"], `${temporary}-package`);
    const bundle = join(`${temporary}-package`, "package", "llama", "gitRelease.bundle");
    await run("git", ["clone", "--quiet", bundle, temporary]);
  });
}

/** Folder of a tool: `llama-quantize` is in tools/quantize, `llama-bench` in tools/llama-bench. */
function sourceFolder(sources: string, tool: string): string {
  const folders = [tool, tool.replace(/^llama-/, "")].map((name) => join(sources, "tools", name));
  const found = folders.find((folder) => existsSync(folder));
  if (found === undefined) throw new Error(`llama.cpp has no tool ${tool}`);
  return found;
}

/**
 * Compiles one of llama.cpp's own command-line tools against the installed libraries, so that it runs the
 * same code as the engine. Needs g++ on Linux; takes seconds, once.
 *
 * @param tool such as `llama-perplexity`, `llama-quantize`, `llama-imatrix`, `llama-bench`, `llama-tokenize`
 * @returns path of the program
 */
export async function peerTool(tool: string): Promise<string> {
  const sources = await llamaSources();
  const { folder: libraries } = locateLlama();
  const bin = await once(join(sources, "..", "bin"), async (temporary) => {
    // ggml looks for the CPU's library beside the program.
    await mkdir(temporary);
    for (const name of await readdir(libraries)) {
      if (name.endsWith(".so")) await symlink(join(libraries, name), join(temporary, name));
    }
  });
  return once(join(bin, tool), async (temporary) => {
    const from = sourceFolder(sources, tool);
    const files = (await readdir(from))
      .filter((name) => name.endsWith(".cpp"))
      .map((name) => join(from, name));
    const shared = (await readdir(bin)).filter((name) => /^lib(?:llama|ggml)(?!-cpu).*\.so$/.test(name));
    await run("g++", [
      "-O1",
      "-std=c++17",
      "-pthread",
      ...["include", "ggml/include", "common", "vendor", "src"].map((name) => `-I${join(sources, name)}`),
      ...files,
      "-o",
      temporary,
      `-L${bin}`,
      ...shared.map((name) => `-l:${name}`),
      "-Wl,--allow-shlib-undefined",
      "-Wl,-rpath,$ORIGIN",
    ]);
  });
}
