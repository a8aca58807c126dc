import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { TextError } from "../../../calibration/text/errors.js";
import { parseSource } from "../../../calibration/text/sources.js";

let folder: string;
beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), "lapidary-sources-"));
});
afterAll(async () => {
  await rm(folder, { recursive: true });
});

function failure(spec: string): TextError {
  try {
    parseSource(spec);
  } catch (error) {
    if (error instanceof TextError) return error;
    throw error;
  }
  throw new Error("nothing was thrown");
}

describe("a source", () => {
  it.each([
    ["notes.txt", { path: "notes.txt", weight: 1 }],
    ["notes.txt=2", { path: "notes.txt", weight: 2 }],
    ["a=b/notes.txt=0.25", { path: "a=b/notes.txt", weight: 0.25 }],
    ["notes=.5", { path: "notes", weight: 0.5 }],
    ["default", { path: null, weight: 1 }],
    ["default=3", { path: null, weight: 3 }],
    ["./default", { path: "./default", weight: 1 }],
    ["./default=3", { path: "./default", weight: 3 }],
  ])("%s", (spec, source) => {
    expect(parseSource(spec)).toEqual(source);
  });

  it("that exists as written is not split", async () => {
    const path = join(folder, "run=2");
    expect(parseSource(path)).toEqual({ path: join(folder, "run"), weight: 2 });
    await writeFile(path, "text");
    expect(parseSource(path)).toEqual({ path, weight: 1 });
    expect(parseSource(`${path}=3`)).toEqual({ path, weight: 3 });
  });

  it.each(["0", "-1", "0.0", "1e3", "0x10", "two", "", " 2", "Infinity", "NaN", "1000001", "1.2.3"])(
    "is refused with the weight %j",
    (weight) => {
      const error = failure(`notes.txt=${weight}`);
      expect(error).toMatchObject({ code: "source-weight", exitCode: 2 });
      expect(error.message).toContain(`notes.txt=${weight}: there is no such file, and "${weight}"`);
    },
  );

  it("needs a path", () => {
    expect(failure("")).toMatchObject({ code: "source-path", exitCode: 2 });
    expect(failure("=2")).toMatchObject({ code: "source-path", exitCode: 2 });
  });
});
