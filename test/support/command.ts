import { spawn } from "node:child_process";
import { join } from "node:path";
import { packageRoot } from "../../src/base/paths.js";

export interface CommandResult {
  readonly code: number | null;
  readonly signal: NodeJS.Signals | null;
  readonly stdout: string;
  readonly stderr: string;
}

export type Kill = (signal: NodeJS.Signals) => void;

/** Set by test runners and CI, and changing what a program does; a user's shell has none of them. */
const FOREIGN = /^(?:NODE_ENV|NODE_OPTIONS|FORCE_COLOR|NO_COLOR|CI|DEBUG|VITEST.*)$/;

function userEnvironment(): NodeJS.ProcessEnv {
  return Object.fromEntries(Object.entries(process.env).filter(([name]) => !FOREIGN.test(name)));
}

/**
 * Runs the built program as a user would, without a terminal.
 *
 * @param options.meanwhile called once the program says its first words on stderr: what it does has begun
 * @param options.killAfterMs SIGKILL comes so long after the start, if the program still runs then
 */
export function lapidary(
  args: readonly string[],
  options: { readonly meanwhile?: (kill: Kill) => Promise<void>; readonly killAfterMs?: number } = {},
): Promise<CommandResult> {
  return new Promise((resolve, reject) => {
    const child = spawn(process.execPath, [join(packageRoot, "bin", "run.js"), ...args], {
      cwd: packageRoot,
      env: userEnvironment(),
      stdio: ["ignore", "pipe", "pipe"],
    });
    const { killAfterMs } = options;
    const timer =
      killAfterMs === undefined ? undefined : setTimeout(() => child.kill("SIGKILL"), killAfterMs);
    let stdout = "";
    let stderr = "";
    child.stdout.setEncoding("utf8").on("data", (text: string) => (stdout += text));
    child.stderr.setEncoding("utf8").on("data", (text: string) => (stderr += text));
    child.stderr.once("data", () => {
      options
        .meanwhile?.((signal) => child.kill(signal))
        .catch((error: unknown) => {
          child.kill("SIGKILL");
          reject(error);
        });
    });
    child.once("error", reject);
    child.once("close", (code, signal) => {
      clearTimeout(timer);
      resolve({ code, signal, stdout, stderr });
    });
  });
}
