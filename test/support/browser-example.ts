import { type ChildProcess, execFile, spawn } from "node:child_process";
import { once } from "node:events";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { promisify } from "node:util";
import { packageRoot } from "../../src/base/paths.js";
import { nanoCheckpoint, scratchFolder } from "./convert.js";

const execute = promisify(execFile);

export const serveScript = join(packageRoot, "examples", "browser", "serve.mjs");

/** Folder `nano-e`, written by the command that the example's README gives. */
export async function exportNano(dtypes: string): Promise<string> {
  const out = join(scratchFolder(), "nano-e");
  const argv = ["convert", nanoCheckpoint, "--to", "onnx", "--dtype", dtypes, "--out", out];
  await execute(process.execPath, [join(packageRoot, "bin", "run.js"), ...argv], { cwd: packageRoot });
  return out;
}

/** The example's server on any free port. */
export interface Served {
  /** With a slash at its end. */
  readonly url: string;
  stop(): Promise<void>;
}

async function stop(child: ChildProcess): Promise<void> {
  if (child.exitCode !== null || child.signalCode !== null) return;
  const ended = once(child, "exit");
  child.kill();
  await ended;
}

export async function serve(folder: string): Promise<Served> {
  const child = spawn(process.execPath, [serveScript, folder, "--port", "0"], {
    stdio: ["ignore", "pipe", "inherit"],
  });
  for await (const line of createInterface({ input: child.stdout })) {
    const [url] = /http:\/\/127\.0\.0\.1:\d+\//.exec(line) ?? [];
    if (url !== undefined) return { url, stop: () => stop(child) };
  }
  throw new Error(`The server has ended with ${child.exitCode} without giving an address`);
}
