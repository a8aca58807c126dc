import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { convert, type ConvertRequest } from "../../src/pipeline/convert.js";
import { silent } from "../../src/pipeline/progress.js";

/** The miniature checkpoint of the repository. */
export const nanoCheckpoint = "fixtures/nano-e";

const made: string[] = [];
process.once("exit", () => {
  for (const folder of made) rmSync(folder, { recursive: true, force: true });
});

/** A folder that goes away with the test process. */
export function scratchFolder(): string {
  const folder = mkdtempSync(join(tmpdir(), "lapidary-test-"));
  made.push(folder);
  return folder;
}

/** A request with the defaults of the command line and everything small. */
export function convertRequest(request: Partial<ConvertRequest> = {}): ConvertRequest {
  return {
    source: nanoCheckpoint,
    types: ["F32"],
    out: scratchFolder(),
    matchConverter: false,
    keepUnusedKv: false,
    splitMaxBytes: undefined,
    threads: 2,
    memory: 256 * 1024 ** 2,
    dryRun: false,
    force: false,
    // Most tests hold files against llama.cpp's own.
    method: "ggml",
    ...request,
  };
}

const fixtures = new Map<string, Promise<string>>();

/** Path of the fixture as a GGUF of a type; made once in a test process. */
export function convertFixture(type: string, request: Partial<ConvertRequest> = {}): Promise<string> {
  const key = JSON.stringify([type, request]);
  const found = fixtures.get(key);
  if (found !== undefined) return found;
  const path = convert(
    convertRequest({ ...request, types: [type] }),
    silent,
    new AbortController().signal,
  ).then(([artifact]) => artifact?.files[0] ?? "");
  fixtures.set(key, path);
  return path;
}
