import { readFileSync } from "node:fs";
import { open, readFile, rm } from "node:fs/promises";
import { hostname } from "node:os";
import { outputFailure } from "./atomic-file.js";
import { LapidaryError } from "./errors.js";

/** Two runs at the same files. */
export class LockError extends LapidaryError {}

/** Who holds a lock. */
interface Holder {
  readonly host: string;
  readonly pid: number;
  /** When that process began, in the kernel's own count; null where the system does not say. */
  readonly started: string | null;
}

/**
 * Tells a process from a later one with the same number: field 22 of /proc/PID/stat, after the name in brackets. One that
 * has ended and that nobody has asked after (Z), as is common in containers, is none any more.
 */
function startOf(pid: number): string | null {
  try {
    const text = readFileSync(`/proc/${pid}/stat`, "utf8");
    const [state, ...fields] = text.slice(text.lastIndexOf(")") + 2).split(" ");
    return state === "Z" || state === "X" ? null : (fields[18] ?? null);
  } catch {
    return null;
  }
}

function parseHolder(text: string): Holder | undefined {
  try {
    const value = JSON.parse(text) as Holder | null;
    return typeof value?.host === "string" && Number.isSafeInteger(value.pid) ? value : undefined;
  } catch {
    return undefined;
  }
}

function isAlive({ host, pid, started }: Holder): boolean {
  // A process of another machine cannot be asked; it is believed.
  if (host !== hostname()) return true;
  if (started !== null && startOf(pid) !== started) return false;
  try {
    process.kill(pid, 0);
    return true;
  } catch (error) {
    return (error as NodeJS.ErrnoException).code === "EPERM";
  }
}

/**
 * Runs `work` while a lock file says that this process is at something. A lock whose process has ended is
 * taken over.
 *
 * @param path of the lock file
 * @param what is being written, for messages
 * @throws LockError `in-use` (exit code 2) when another process, or this one, holds the lock
 * @throws OutputError when the lock file cannot be made
 */
export async function withLock<T>(path: string, what: string, work: () => Promise<T>): Promise<T> {
  const holder: Holder = { host: hostname(), pid: process.pid, started: startOf(process.pid) };
  for (;;) {
    const made = await open(path, "wx").catch((error: unknown) => {
      if ((error as NodeJS.ErrnoException).code === "EEXIST") return undefined;
      throw outputFailure(what, error);
    });
    if (made !== undefined) {
      try {
        await made.writeFile(JSON.stringify(holder));
      } finally {
        await made.close();
      }
      break;
    }
    const text = await readFile(path, "utf8").catch(() => "");
    const other = parseHolder(text);
    if (other !== undefined && isAlive(other)) {
      throw new LockError("in-use", `${what}: process ${other.pid} on ${other.host} is writing it.`, {
        exitCode: 2,
        advice: `Wait for it; if there is no such run, delete ${path}.`,
      });
    }
    await rm(path, { force: true });
  }
  try {
    return await work();
  } finally {
    await rm(path, { force: true });
  }
}
