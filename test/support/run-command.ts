import { Command } from "@oclif/core";
import { captureOutput } from "@oclif/test";
import { pathToFileURL } from "node:url";
import { join } from "node:path";
import { packageRoot } from "../../src/base/paths.js";

type CommandClass = { run(argv: string[], options: string): Promise<unknown> } & typeof Command;

export interface CommandRun {
  /** Exit code that the process would have. */
  readonly code: number;
  readonly stdout: string;
  readonly stderr: string;
}

/** Runs a command's class from source in this process, with its output caught. */
export async function runCommand(command: unknown, argv: readonly string[]): Promise<CommandRun> {
  const root = pathToFileURL(join(packageRoot, "package.json")).href;
  const before = process.exitCode;
  process.exitCode = undefined;
  try {
    const { stdout, stderr, error } = await captureOutput(
      () => (command as CommandClass).run([...argv], root),
      { print: false },
    );
    if (error !== undefined && typeof error.oclif?.exit !== "number") throw error;
    return { code: error?.oclif?.exit ?? process.exitCode ?? 0, stdout, stderr };
  } finally {
    process.exitCode = before;
  }
}
