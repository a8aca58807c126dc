import { readFileSync } from "node:fs";

/**
 * Largest resident memory of this process so far, in bytes.
 *
 * On Linux from the kernel's high-water mark: the figure that `getrusage` has there is inherited from the
 * parent process across fork and exec, and so may be the parent's.
 */
export function peakMemory(): number {
  if (process.platform === "linux") {
    const match = /^VmHWM:\s+(\d+) kB$/m.exec(readFileSync("/proc/self/status", "utf8"));
    if (match !== null) return Number(match[1]) * 1024;
  }
  return process.resourceUsage().maxRSS * 1024;
}
