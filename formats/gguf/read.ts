import { openFile } from "../file-source.js";
import type { OpenSource } from "../source.js";
import { GgufError } from "./errors.js";
import { shown } from "./format.js";
import { readGguf } from "./header.js";
import { parsePartName, partName, SPLIT_COUNT, SPLIT_NO, SPLIT_TENSORS, type PartName } from "./split.js";
import type { GgufFile, GgufMetadata, GgufModel } from "./types.js";

export { readGguf } from "./header.js";

interface Part {
  readonly path: string;
  readonly size: number;
  readonly file: GgufFile;
}

async function readPart(path: string, open: OpenSource): Promise<Part> {
  const source = await open(path);
  try {
    return { path, size: source.size, file: await readGguf(source) };
  } finally {
    await source.close();
  }
}

function splitNumber(
  path: string,
  metadata: GgufMetadata,
  key: string,
  type: "u16" | "i32",
): number | undefined {
  const entry = metadata.get(key);
  if (entry === undefined) return undefined;
  if (entry.type !== type) {
    throw new GgufError("gguf-split", `${path}: ${key} is of type ${entry.type}, expected ${type}.`);
  }
  return entry.value;
}

/**
 * Checks that a part says of itself what its name says.
 * @returns the number of tensors that it expects in all parts
 */
function checkPart({ path, file: { metadata } }: Part, name: PartName): number {
  const expected = [
    [SPLIT_NO, name.index],
    [SPLIT_COUNT, name.count],
  ] as const;
  for (const [key, value] of expected) {
    const found = splitNumber(path, metadata, key, "u16");
    if (found !== value) {
      throw new GgufError(
        "gguf-split",
        `${path}: ${key} is ${found ?? "missing"}, expected ${value} by the name of the file.`,
        { advice: "Put the parts of one model side by side under the names they were made with." },
      );
    }
  }
  const total = splitNumber(path, metadata, SPLIT_TENSORS, "i32");
  if (total === undefined) throw new GgufError("gguf-split", `${path}: ${SPLIT_TENSORS} is missing.`);
  return total;
}

/** Reads the other parts of the set that `given` belongs to. */
async function readSet(given: Part, count: number, open: OpenSource): Promise<Part[]> {
  const name = parsePartName(given.path);
  if (!name) {
    throw new GgufError("gguf-split", `${given.path}: the file is one of ${count} parts, but not named so.`, {
      advice: `Give it back its name: ${partName("<model>", 0, count)} for the first part, and so on.`,
    });
  }
  const total = checkPart(given, name);
  const parts: Part[] = [];
  let found = 0;
  for (let index = 0; index < count; index++) {
    const part = index === name.index ? given : await readPart(partName(name.prefix, index, count), open);
    const claimed = checkPart(part, { ...name, index });
    if (claimed !== total) {
      throw new GgufError(
        "gguf-split",
        `${part.path}: ${SPLIT_TENSORS} is ${claimed}, expected ${total} as in ${given.path}.`,
      );
    }
    found += part.file.tensors.length;
    parts.push(part);
  }
  if (found !== total) {
    throw new GgufError("gguf-split", `${given.path}: its parts hold ${found} tensors, expected ${total}.`);
  }
  return parts;
}

/**
 * Opens a GGUF model: a single file, or all parts of a split one when `path` is any of them. Headers
 * are read and checked, then the files are closed again.
 *
 * @param open how a path becomes a source; local files by default
 * @throws GgufError as readGguf does, and when the parts do not belong together
 * @throws FormatError when a file cannot be opened; for a missing part it names that part
 */
export async function openGguf(path: string, open: OpenSource = openFile): Promise<GgufModel> {
  const given = await readPart(path, open);
  // 0 is what llama.cpp leaves behind when it merges parts into one file.
  const count = splitNumber(path, given.file.metadata, SPLIT_COUNT, "u16") ?? 0;
  const parts = count > 1 ? await readSet(given, count, open) : [given];

  const first = parts[0]!.file;
  const metadata = new Map(first.metadata);
  for (const key of [SPLIT_NO, SPLIT_COUNT, SPLIT_TENSORS]) metadata.delete(key);

  const tensors = parts.flatMap(({ file }, part) => file.tensors.map((tensor) => ({ ...tensor, part })));
  const names = new Set<string>();
  for (const { name, part } of tensors) {
    if (names.has(name)) {
      throw new GgufError(
        "gguf-name",
        `${parts[part]!.path}: tensor ${shown(name)} is in an earlier part too.`,
      );
    }
    names.add(name);
  }
  return {
    paths: parts.map((part) => part.path),
    sizes: parts.map((part) => part.size),
    version: first.version,
    alignment: first.alignment,
    metadata,
    tensors,
  };
}
