import { spawn } from "node:child_process";
import { once } from "node:events";
import { existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { hostname, tmpdir } from "node:os";
import { join } from "node:path";
import { setTimeout } from "node:timers/promises";
import { afterAll, describe, expect, it } from "vitest";
import { withLock } from "../../src/base/lock.js";

const folder = mkdtempSync(join(tmpdir(), "lapidary-lock-"));
afterAll(() => {
  rmSync(folder, { recursive: true });
});

let count = 0;
const fresh = (): string => join(folder, `${count++}.lock`);

describe("withLock", () => {
  it("holds the lock while it works, and gives it back whatever happens", async () => {
    const path = fresh();
    await withLock(path, "out", async () => {
      expect(JSON.parse(readFileSync(path, "utf8"))).toMatchObject({ host: hostname(), pid: process.pid });
      await expect(withLock(path, "out", async () => 1)).rejects.toMatchObject({
        code: "in-use",
        exitCode: 2,
      });
      expect(existsSync(path)).toBe(true);
    });
    expect(existsSync(path)).toBe(false);
    await expect(
      withLock(path, "out", () => {
        throw new Error("work");
      }),
    ).rejects.toThrow("work");
    expect(existsSync(path)).toBe(false);
  });

  it.each([
    ["a process that has ended", { host: hostname(), pid: 2 ** 22 + 1, started: null }],
    ["a process whose number another one has now", { host: hostname(), pid: process.ppid, started: "1" }],
    ["nobody, for it was cut short", undefined],
  ])("takes over the lock of %s", async (_whose, holder) => {
    const path = fresh();
    writeFileSync(path, holder === undefined ? "" : JSON.stringify(holder));
    expect(await withLock(path, "out", async () => "done")).toBe("done");
    expect(existsSync(path)).toBe(false);
  });

  it.each([
    ["a live process", { host: hostname(), pid: process.ppid, started: null }],
    ["a process of another machine", { host: `not-${hostname()}`, pid: 1, started: null }],
  ])("respects the lock of %s", async (_whose, holder) => {
    const path = fresh();
    writeFileSync(path, JSON.stringify(holder));
    await expect(withLock(path, "out", async () => 1)).rejects.toMatchObject({ code: "in-use" });
    expect(JSON.parse(readFileSync(path, "utf8"))).toEqual(holder);
  });

  it.runIf(process.platform === "linux")("takes over the lock of a process that nobody buries", async () => {
    const path = fresh();
    // The shell becomes a program that does not ask after the shell's children.
    const parent = spawn("sh", ["-c", "sleep 0.1 & echo $!; exec sleep 30"]);
    try {
      const [line] = (await once(parent.stdout, "data")) as [Buffer];
      const pid = Number(line.toString());
      const stat = (): string[] => readFileSync(`/proc/${pid}/stat`, "utf8").split(" ");
      const started = stat()[21];
      while (stat()[2] !== "Z") await setTimeout(10);
      writeFileSync(path, JSON.stringify({ host: hostname(), pid, started }));
      expect(await withLock(path, "out", async () => "done")).toBe("done");
    } finally {
      parent.kill("SIGKILL");
    }
  });

  it("says what is wrong where no lock can be made", async () => {
    const missing = join(folder, "none", "a.lock");
    await expect(withLock(missing, "none/a", async () => 1)).rejects.toMatchObject({ code: "output-folder" });
  });
});
