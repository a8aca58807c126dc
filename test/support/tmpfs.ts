import { execFileSync } from "node:child_process";
import { mkdtempSync, rmdirSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { onTestFinished } from "vitest";

/** A file system in memory that the running test has to itself. */
export interface Tmpfs {
  readonly folder: string;
  remountReadOnly(): void;
}

/** Mounts a file system of a size for the running test; undefined where that is not permitted. */
export function mountTmpfs(bytes: number): Tmpfs | undefined {
  if (process.platform !== "linux" || process.getuid?.() !== 0) return undefined;
  const folder = mkdtempSync(join(tmpdir(), "lapidary-tmpfs-"));
  const mount = (options: string): void => {
    execFileSync("mount", ["-t", "tmpfs", "-o", options, "lapidary-test", folder], { stdio: "pipe" });
  };
  try {
    mount(`size=${bytes}`);
  } catch {
    // Root inside a container usually may not.
    rmdirSync(folder);
    return undefined;
  }
  onTestFinished(() => {
    execFileSync("umount", [folder]);
    rmdirSync(folder);
  });
  return { folder, remountReadOnly: () => mount("remount,ro") };
}
