import { execFile } from "node:child_process";
import { mkdtemp, rm, truncate, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { promisify } from "node:util";
import { afterEach, beforeEach, expect, test } from "vitest";
import { FormatError } from "../../formats/errors.js";
import { openFile } from "../../formats/file-source.js";

let folder: string;
let path: string;

beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), "lapidary-source-"));
  path = join(folder, "ten");
  await writeFile(path, new Uint8Array([0, 1, 2, 3, 4, 5, 6, 7, 8, 9]));
});

afterEach(async () => {
  await rm(folder, { recursive: true, force: true });
});

test("reads by range, also into a part of a buffer", async () => {
  const source = await openFile(path);
  expect([source.name, source.size]).toEqual([path, 10]);
  const target = new Uint8Array(6);
  await source.read(target.subarray(1, 5), 6);
  expect([...target]).toEqual([0, 6, 7, 8, 9, 0]);
  await source.read(new Uint8Array(0), 10);
  await source.close();
});

test.each([
  [1, 10],
  [11, 0],
  [1, -1],
  [1, 0.5],
  [1, Number.NaN],
  [1, 2 ** 53],
])("refuses %d bytes at %d of ten", async (length, position) => {
  const source = await openFile(path);
  await expect(source.read(new Uint8Array(length), position)).rejects.toMatchObject({
    name: "FormatError",
    code: "file-range",
  });
  await source.close();
});

test("tells when the file was shortened since it was opened", async () => {
  const source = await openFile(path);
  await truncate(path, 4);
  const target = new Uint8Array(4);
  await expect(source.read(target, 2)).rejects.toMatchObject({
    code: "file-truncated",
    exitCode: 1,
    message: `${path}: the file ends at byte 4, expected 10 bytes as when it was opened.`,
  });
  await source.close();
});

test("what the system says on reading becomes a FormatError", async () => {
  const source = await openFile(path);
  await source.close();
  await expect(source.read(new Uint8Array(1), 0)).rejects.toBeInstanceOf(FormatError);
});

test("a missing file is misuse, and so is what is no file", async () => {
  const misuse = { name: "FormatError", exitCode: 2 };
  await expect(openFile(join(folder, "none"))).rejects.toMatchObject({ ...misuse, code: "file-missing" });
  await expect(openFile(join(path, "below"))).rejects.toMatchObject({ ...misuse, code: "file-missing" });
  await expect(openFile(folder)).rejects.toMatchObject({ ...misuse, code: "file-kind" });
});

test.skipIf(process.platform === "win32")("does not wait for the writer of a pipe", async () => {
  const pipe = join(folder, "pipe");
  await promisify(execFile)("mkfifo", [pipe]);
  await expect(openFile(pipe)).rejects.toMatchObject({ code: "file-kind", exitCode: 2 });
});
