import { execFile, spawn } from "node:child_process";
import { once } from "node:events";
import { mkdir, mkdtemp, readdir, readFile, rm, stat, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { promisify } from "node:util";
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import {
  checkOutput,
  createAtomicFile,
  OutputError,
  outputFailure,
  removeAllTemporaries,
  writeFileAtomic,
} from "../../src/base/atomic-file.js";
import { builtUrl } from "../../src/base/paths.js";

let folder: string;

beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), "lapidary-atomic-"));
});

afterEach(async () => {
  await rm(folder, { recursive: true, force: true });
});

describe("a file that appears whole or not at all", () => {
  test("appears under its name when it is committed, not before", async () => {
    const path = join(folder, "out.bin");
    const file = await createAtomicFile(path);
    await file.write(Buffer.from("le"), 3);
    await file.write(Buffer.from("who"), 0);
    expect(await readdir(folder)).toEqual([
      expect.stringMatching(new RegExp(`^\\.out\\.bin\\.partial-${process.pid}-[0-9a-f]{8}$`)),
    ]);
    await file.commit();
    expect(await readdir(folder)).toEqual(["out.bin"]);
    expect(await readFile(path, "utf8")).toBe("whole");
    await file.abort();
    expect(await readdir(folder)).toEqual(["out.bin"]);
  });

  test("leaves nothing when it is aborted, once or twice", async () => {
    const file = await createAtomicFile(join(folder, "out.bin"));
    await file.abort();
    await file.abort();
    expect(await readdir(folder)).toEqual([]);
  });

  test("has its size at once, without taking the space", async () => {
    const size = 64 * 2 ** 20;
    const file = await createAtomicFile(join(folder, "out.bin"), size);
    await file.write(Buffer.from("end"), size - 3);
    await file.commit();
    const found = await stat(file.path);
    expect(found.size).toBe(size);
    expect(found.blocks * 512).toBeLessThan(2 ** 20);
  });

  test("keeps what is there until it is committed", async () => {
    const path = join(folder, "out.bin");
    await writeFile(path, "old");
    const file = await createAtomicFile(path);
    await file.write(Buffer.from("new"), 0);
    expect(await readFile(path, "utf8")).toBe("old");
    await file.commit();
    expect(await readFile(path, "utf8")).toBe("new");
    expect(await readdir(folder)).toEqual(["out.bin"]);
  });

  test.each(["x".repeat(255), "é".repeat(127), "💎".repeat(63)])(
    "has room for the longest names: %s",
    async (name) => {
      await writeFileAtomic(join(folder, name), "text");
      expect(await readdir(folder)).toEqual([name]);
    },
  );

  test("goes away with all others on removeAllTemporaries, and cannot be committed then", async () => {
    const path = join(folder, "a.bin");
    await writeFile(path, "old");
    const first = await createAtomicFile(path);
    const second = await createAtomicFile(join(folder, "b.bin"));
    removeAllTemporaries();
    expect(await readdir(folder)).toEqual(["a.bin"]);
    await expect(first.commit()).rejects.toMatchObject({ name: "OutputError", code: "output-gone" });
    await second.abort();
    expect(await readFile(path, "utf8")).toBe("old");
  });

  test("goes away when the process ends by itself or by a signal that it handles", async () => {
    const script = `
      import { createAtomicFile, removeAllTemporaries } from ${JSON.stringify(builtUrl(import.meta.url, "../../src/base/atomic-file.js"))};
      await createAtomicFile(${JSON.stringify(join(folder, "out.bin"))});
      process.on("SIGTERM", () => { removeAllTemporaries(); process.kill(process.pid, "SIGKILL"); });
      if (process.argv[1] === "exit") process.exit(7);
      setInterval(() => {}, 1000);
      process.stdout.write("ready");`;
    const start = ["--input-type=module", "-e", script];
    await expect(promisify(execFile)(process.execPath, [...start, "exit"])).rejects.toMatchObject({
      code: 7,
    });
    expect(await readdir(folder)).toEqual([]);

    const child = spawn(process.execPath, [...start, "wait"], { stdio: ["ignore", "pipe", "inherit"] });
    await once(child.stdout, "data");
    expect(await readdir(folder)).toHaveLength(1);
    child.kill("SIGTERM");
    expect(await once(child, "exit")).toEqual([null, "SIGKILL"]);
    expect(await readdir(folder)).toEqual([]);
  });
});

describe("an output that cannot be written", () => {
  test("is told by the folder, the name or what is there", async () => {
    await writeFile(join(folder, "file"), "");
    await mkdir(join(folder, "folder"));
    const cases = [
      [join(folder, "none", "out.bin"), "output-folder"],
      [join(folder, "file", "out.bin"), "output-folder"],
      [join(folder, "folder"), "output-kind"],
      ["/dev/null", "output-kind"],
      [join(folder, "x".repeat(256)), "output-name"],
    ] as const;
    for (const [path, code] of cases) {
      const error: unknown = await createAtomicFile(path).catch((error: unknown) => error);
      expect(error).toBeInstanceOf(OutputError);
      const exitCode = code === "output-kind" ? 2 : 1;
      expect(error).toMatchObject({ code, exitCode, advice: expect.stringMatching(/\.$/) as string });
      expect((error as OutputError).message).toContain(path);
    }
    expect((await readdir(folder)).toSorted()).toEqual(["file", "folder"]);
  });

  test("is refused when it would replace something unasked", async () => {
    const path = join(folder, "out.bin");
    await checkOutput(path, false);
    await writeFile(path, "old");
    await expect(checkOutput(path, false)).rejects.toMatchObject({ code: "output-exists", exitCode: 2 });
    await checkOutput(path, true);
    await expect(checkOutput(folder, true)).rejects.toMatchObject({ code: "output-kind", exitCode: 2 });
    await expect(checkOutput(join(path, "in it"), true)).rejects.toMatchObject({ code: "output-folder" });
  });

  test.each([
    ["ENOSPC", "disk-full"],
    ["EDQUOT", "disk-full"],
    ["EFBIG", "file-too-big"],
    ["EACCES", "output-denied"],
    ["EPERM", "output-denied"],
    ["EROFS", "output-denied"],
    ["EIO", "output-device"],
  ])("%s while writing becomes %s", (errno, code) => {
    const cause = Object.assign(new Error(errno), { code: errno });
    expect(outputFailure("/data/out.gguf", cause)).toMatchObject({ name: "OutputError", code, cause });
  });

  test("other errors stay what they are", () => {
    const defect = new TypeError("undefined is not a function");
    expect(outputFailure("out", defect)).toBe(defect);
    const known = new OutputError("disk-full", "out: cannot be written.");
    expect(outputFailure("out", known)).toBe(known);
    expect(outputFailure("out", undefined)).toBeUndefined();
  });

  test("a rename that fails leaves nothing behind", async () => {
    const path = join(folder, "out.bin");
    const file = await createAtomicFile(path);
    await mkdir(join(path, "in the way"), { recursive: true });
    await expect(file.commit()).rejects.toBeInstanceOf(OutputError);
    expect(await readdir(folder)).toEqual(["out.bin"]);
  });
});

describe("writeFileAtomic", () => {
  test("writes text and bytes, and replaces what is there", async () => {
    const path = join(folder, "manifest.json");
    await writeFileAtomic(path, "grüße\n");
    expect(await readFile(path, "utf8")).toBe("grüße\n");
    await writeFileAtomic(path, new Uint8Array([1, 2, 3]));
    expect([...(await readFile(path))]).toEqual([1, 2, 3]);
    expect(await readdir(folder)).toEqual(["manifest.json"]);
  });
});
