import { constants } from "node:fs";
import { copyFile, open, stat } from "node:fs/promises";
import { partialPath } from "../../formats/output-files.js";
import { outputFailure } from "../base/atomic-file.js";
import { QuantizeError } from "./errors.js";
import type { Work } from "./work.js";

/** Tensors that are to be done again. */
export interface Redo {
  /** What they were found by; a run is known again by it. */
  readonly pattern: string;
  /** By their index; what is generated is made again in any case. */
  readonly tensors: ReadonlySet<number>;
}

/** Bytes of a head that are compared at once. */
const CHUNK_BYTES = 2 ** 20;

/**
 * Indices of the tensors that a pattern finds: a regular expression over names, both lower-cased like the patterns
 * of types.
 *
 * @param names what the names are, for the advice when none is found
 * @throws QuantizeError `bad-pattern`, `pattern-finds-nothing` (exit code 2)
 */
export function findTensors(
  { tensors }: { readonly tensors: readonly { readonly name: string }[] },
  pattern: string,
  names = "GGUF names such as blk.3.ffn_down.weight; lapidary inspect --tensors lists them",
): ReadonlySet<number> {
  let regex: RegExp;
  try {
    regex = new RegExp(pattern.toLowerCase());
  } catch (error) {
    throw new QuantizeError(
      "bad-pattern",
      `the pattern ${JSON.stringify(pattern)} of tensors to do again (--redo) is no regular expression`,
      { exitCode: 2, cause: error },
    );
  }
  const found = tensors.flatMap(({ name }, index) => (regex.test(name.toLowerCase()) ? [index] : []));
  if (found.length > 0) return new Set(found);
  throw new QuantizeError(
    "pattern-finds-nothing",
    `the pattern ${JSON.stringify(pattern)} of tensors to do again (--redo) finds none`,
    {
      exitCode: 2,
      advice: `Patterns are regular expressions over ${names}.`,
    },
  );
}

async function sizeOf(path: string): Promise<number | undefined> {
  return (await stat(path).catch(() => undefined))?.size;
}

async function beginsWith(path: string, head: Uint8Array): Promise<boolean> {
  const file = await open(path, "r");
  try {
    const chunk = new Uint8Array(CHUNK_BYTES);
    for (let at = 0; at < head.length;) {
      const expected = head.subarray(at, at + CHUNK_BYTES);
      const { bytesRead } = await file.read(chunk, 0, expected.length, at);
      if (bytesRead === 0) return false;
      if (Buffer.compare(chunk.subarray(0, bytesRead), expected.subarray(0, bytesRead)) !== 0) return false;
      at += bytesRead;
    }
    return true;
  } finally {
    await file.close();
  }
}

function differs(path: string | undefined, what: string): QuantizeError {
  return new QuantizeError(
    "redo-differs",
    `${path} cannot be done again in part (--redo): ${what}, so it was made with other flags, another input or another version of lapidary`,
    { exitCode: 2, advice: "Give the flags that it was made with, or --force without --redo to replace it." },
  );
}

/**
 * Checks that the planned files are there under their final names, of the sizes and with just the heads planned:
 * then the tensors that are not to be done again can be taken from them.
 *
 * @throws QuantizeError `redo-nothing`, `redo-differs` (exit code 2)
 */
export async function checkWhole({ files, headDifference }: Work): Promise<void> {
  const paths = files.map(({ path }) => path);
  const sizes = await Promise.all(paths.map((path) => sizeOf(path)));
  if (sizes.every((size) => size === undefined)) {
    throw new QuantizeError(
      "redo-nothing",
      `${paths[0]} is not there, nor is an unfinished run into it: there are no tensors to do again (--redo)`,
      { exitCode: 2, advice: "Leave --redo out." },
    );
  }
  for (const [part, { path, head, size }] of files.entries()) {
    if (sizes[part] === undefined)
      throw differs(
        paths.find((_, other) => sizes[other] !== undefined),
        `its part ${path} is missing`,
      );
    if (await beginsWith(path, head)) {
      if (sizes[part] === size) continue;
      throw differs(path, `it has ${sizes[part]} bytes, not ${size}`);
    }
    const difference = await headDifference(paths);
    throw differs(path, `it has ${difference ?? "another header"}`);
  }
}

/**
 * Copies whole files to their temporary names, for `reopenOutput`; a file system that can share blocks does so.
 *
 * @throws OutputError
 */
export async function copyWhole(paths: readonly string[], signal: AbortSignal | undefined): Promise<void> {
  for (const path of paths) {
    signal?.throwIfAborted();
    await copyFile(path, partialPath(path), constants.COPYFILE_FICLONE).catch((error: unknown) => {
      throw outputFailure(path, error);
    });
  }
}
