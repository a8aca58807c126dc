import { createHash } from "node:crypto";
import { createReadStream, readdirSync, rmSync, statSync } from "node:fs";
import { open, stat } from "node:fs/promises";
import { join } from "node:path";
import { pipeline } from "node:stream/promises";
import { setTimeout as sleep } from "node:timers/promises";
import { beforeAll, describe, expect, it } from "vitest";
import { makeCheckpoint } from "../support/checkpoints.js";
import { type CommandResult, type Kill, lapidary } from "../support/command.js";
import { nanoCheckpoint, scratchFolder } from "../support/convert.js";
import { mountTmpfs } from "../support/tmpfs.js";

const MiB = 2 ** 20;

/** What terminals take for commands: colours, cursor movements. */
const ESCAPE = "\u001B";

function convertArgs(checkpoint: string, out: string, type = "q4_0"): string[] {
  return ["convert", checkpoint, "--to", "gguf", "--type", type, "--out", out, "--threads", "1"];
}

/** The one JSON value on stdout; two of them, or words beside it, would not parse. */
function parse({ stdout }: CommandResult): unknown {
  return JSON.parse(stdout);
}

describe("the program", () => {
  it.each([
    ["--help", /COMMANDS[\s\S]*convert[\s\S]*inspect/],
    ["--version", /^lapidary\/\d+\.\d+\.\d+ /],
  ])("answers %s", async (flag, words) => {
    const run = await lapidary([flag]);
    expect(run).toMatchObject({ code: 0, stderr: "" });
    expect(run.stdout).toMatch(words);
    expect(run.stdout).not.toContain(ESCAPE);
  });

  it("refuses a command that it does not know", async () => {
    const run = await lapidary(["convrt"]);
    expect(run).toMatchObject({ code: 2, stdout: "" });
    expect(run.stderr).toMatch(/^Error: convrt is not a command of lapidary\..*\n.*lapidary convert\?/);
    expect(run.stderr).not.toContain(ESCAPE);
    expect(await lapidary(["convrt", nanoCheckpoint])).toMatchObject({ code: 2, stdout: "" });
  });

  it("knows commands of two words", async () => {
    const near = await lapidary(["imatrix", "mrege", "a.gguf"]);
    expect(near).toMatchObject({ code: 2, stdout: "" });
    expect(near.stderr).toMatch(
      /^Error: imatrix mrege is not a command of lapidary\.\n.*lapidary imatrix merge\?/,
    );
    const misuse = await lapidary(["imatrix", "merge", "a.gguf"]);
    expect(misuse).toMatchObject({ code: 2, stdout: "" });
    expect(misuse.stderr).toContain("See lapidary imatrix merge --help.");
  });

  it("refuses a flag that it does not know", async () => {
    const run = await lapidary(["inspect", nanoCheckpoint, "--frob"]);
    expect(run).toMatchObject({ code: 2, stdout: "" });
    expect(run.stderr).toMatch(/^Error: .*--frob/m);
  });

  it("prints tables without escape codes", async () => {
    const run = await lapidary(["inspect", nanoCheckpoint, "--tensors"]);
    expect(run).toMatchObject({ code: 0, stderr: "" });
    expect(run.stdout).toContain("model.language_model.embed_tokens.weight");
    expect(run.stdout).not.toContain(ESCAPE);
  });
});

describe("--json", () => {
  it("leaves stdout to the results of convert, inspect and verify", async () => {
    const out = join(scratchFolder(), "nano.gguf");
    const converted = await lapidary([...convertArgs(nanoCheckpoint, out, "q8_0"), "--json"]);
    expect(converted.code).toBe(0);
    expect(parse(converted)).toMatchObject({ artifacts: [{ outcome: "written", files: [out] }] });
    expect(converted.stderr).toContain("nano.gguf");

    const inspected = await lapidary(["inspect", out, "--json"]);
    expect(inspected).toMatchObject({ code: 0, stderr: "" });
    expect(parse(inspected)).toMatchObject({ kind: "gguf", path: out });

    const verified = await lapidary(["verify", out, "--chunks", "1", "--threads", "1", "--json"]);
    expect(verified.code).toBe(0);
    expect(parse(verified)).toMatchObject({ files: [{ file: out }] });
    expect(verified.stderr).toContain("nano.gguf");
  });

  it.each([
    ["convert", convertArgs("/nowhere", "/nowhere/out"), "no-source"],
    ["inspect", ["inspect", "/nowhere"], "no-source"],
    ["verify", ["verify", "/nowhere.gguf"], "file-missing"],
    ["a missing flag", ["convert", nanoCheckpoint, "--to", "gguf"], "misuse"],
    ["an unknown command", ["convrt"], "misuse"],
  ])("reports an error of %s", async (_, args, code) => {
    const run = await lapidary([...args, "--json"]);
    expect(run.code).toBe(2);
    expect(parse(run)).toMatchObject({ error: { code, exitCode: 2 } });
    expect(run.stderr).not.toContain("Error");
  });
});

/** Waits until that much of a file is on the disk. */
async function filledTo(path: string, bytes: number): Promise<void> {
  for (let wait = 0; wait < 20_000; wait += 5) {
    const blocks = (await stat(path).catch(() => undefined))?.blocks ?? 0;
    if (blocks * 512 >= bytes) return;
    await sleep(5);
  }
  throw new Error(`${path} did not come to hold ${bytes} bytes`);
}

async function sha256(path: string): Promise<string> {
  const hash = createHash("sha256");
  await pipeline(createReadStream(path, { highWaterMark: MiB }), hash);
  return hash.digest("hex");
}

/** Takes all the room that a disk has. */
async function fillUp(path: string): Promise<void> {
  const file = await open(path, "w");
  const block = Buffer.alloc(MiB);
  try {
    for (;;) await file.write(block);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== "ENOSPC") throw error;
  } finally {
    await file.close();
  }
}

describe("a conversion of seconds", () => {
  const checkpoint = join(scratchFolder(), "big");
  const whole = join(scratchFolder(), "whole.gguf");
  let expected = "";

  beforeAll(async () => {
    // More than 100 million values, two seconds for one thread; what stops it comes when a quarter is written.
    await makeCheckpoint(checkpoint, {
      kind: "dense",
      layers: 4,
      hidden: 1024,
      text: { intermediate_size: 8192 },
      sparse: true,
    });
    await lapidary(convertArgs(checkpoint, whole));
    expected = await sha256(whole);
  });

  it.each([
    ["SIGINT", 130],
    ["SIGTERM", 143],
  ] as const)("goes on after a %s", async (signal, code) => {
    const folder = scratchFolder();
    const out = join(folder, "big.gguf");
    const stopped = await lapidary(convertArgs(checkpoint, out), {
      meanwhile: async (kill: Kill) => {
        // The largest tensor has 4.5 MiB: a few are finished.
        await filledTo(`${out}.partial`, 16 * MiB);
        kill(signal);
      },
    });
    expect(stopped).toMatchObject({ code, signal: null, stdout: "" });
    expect(stopped.stderr).toContain(`Stopped by ${signal}`);
    expect(readdirSync(folder).toSorted()).toEqual(["big.gguf.journal", "big.gguf.partial"]);

    const continued = await lapidary([...convertArgs(checkpoint, out), "--json"]);
    expect(continued.code).toBe(0);
    expect(parse(continued)).toMatchObject({ artifacts: [{ outcome: "continued" }] });
    expect(readdirSync(folder)).toEqual(["big.gguf"]);
    expect(await sha256(out)).toBe(expected);
  });

  it("does not begin on a disk that is too small", async (ctx) => {
    const disk = mountTmpfs(32 * MiB);
    if (disk === undefined) {
      ctx.skip("mounting a file system is not permitted");
      return;
    }
    const run = await lapidary(convertArgs(checkpoint, join(disk.folder, "big.gguf")));
    expect(run.code).toBe(1);
    expect(run.stderr).toMatch(/^Error: .*big\.gguf takes .* still to be written.* free/m);
    expect(readdirSync(disk.folder)).toEqual([]);
  });

  it("goes on when a disk that became full has room again", async (ctx) => {
    const disk = mountTmpfs(statSync(whole).size + 32 * MiB);
    if (disk === undefined) {
      ctx.skip("mounting a file system is not permitted");
      return;
    }
    const out = join(disk.folder, "big.gguf");
    const filler = join(disk.folder, "filler");
    const full = await lapidary(convertArgs(checkpoint, out), {
      meanwhile: async () => {
        await filledTo(`${out}.partial`, 16 * MiB);
        await fillUp(filler);
      },
    });
    expect(full.code).toBe(1);
    expect(full.stderr).toMatch(/^Error: .*disk became full.*big\.gguf/m);
    expect(readdirSync(disk.folder).toSorted()).toEqual(["big.gguf.journal", "big.gguf.partial", "filler"]);

    rmSync(filler);
    expect(await lapidary(convertArgs(checkpoint, out))).toMatchObject({ code: 0 });
    expect(readdirSync(disk.folder)).toEqual(["big.gguf"]);
    expect(await sha256(out)).toBe(expected);
  });

  it("says that a folder cannot be written to", async (ctx) => {
    const disk = mountTmpfs(2 ** 24);
    if (disk === undefined) {
      ctx.skip("mounting a file system is not permitted");
      return;
    }
    disk.remountReadOnly();
    const run = await lapidary(convertArgs(nanoCheckpoint, join(disk.folder, "out", "nano.gguf")));
    expect(run.code).toBe(1);
    expect(run.stderr).toMatch(/^Error: .*out: cannot be written, the file system is read-only/m);
    const direct = await lapidary(convertArgs(nanoCheckpoint, join(disk.folder, "nano.gguf")));
    expect(direct.code).toBe(1);
    expect(direct.stderr).toMatch(/^Error: .*nano\.gguf.*the file system is read-only/m);
  });
});
