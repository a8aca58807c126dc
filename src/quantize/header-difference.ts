import { openFile } from "../../formats/file-source.js";
import type { GgufLayout } from "../../formats/gguf/plan.js";
import { readGguf } from "../../formats/gguf/read.js";
import type { GgufFile, GgufTensor, GgufValue } from "../../formats/gguf/types.js";
import { some } from "./difference.js";
import type { Metadata } from "./layout.js";

async function readHeader(path: string): Promise<GgufFile | undefined> {
  try {
    const source = await openFile(path);
    try {
      return await readGguf(source);
    } finally {
      await source.close();
    }
  } catch {
    // Whatever it is, it is not what a plan lays out.
    return undefined;
  }
}

/**
 * In which way files do not have the headers of a layout, such as `other metadata (general.name)`.
 *
 * @returns undefined when no difference can be told
 */
export async function headerDifference(
  paths: readonly string[],
  layout: GgufLayout,
  metadata: Metadata,
): Promise<string | undefined> {
  const files = (await Promise.all(paths.map((path) => readHeader(path)))).filter(
    (file) => file !== undefined,
  );
  const [first] = files;
  if (first === undefined || files.length !== paths.length) return undefined;
  return (
    tensorDifference(
      files.flatMap(({ tensors }) => tensors),
      layout.tensors,
    ) ?? metadataDifference(first.metadata, new Map(metadata))
  );
}

function tensorDifference(before: readonly GgufTensor[], now: readonly GgufTensor[]): string | undefined {
  const earlier = new Map(before.map((tensor) => [tensor.name, tensor]));
  const types = now.flatMap(({ name, type }) => {
    const other = earlier.get(name)?.type ?? type;
    return other === type ? [] : [`${name} is ${other}, not ${type}`];
  });
  if (types.length > 0) return `other types (${some(types)})`;
  const added = now.filter(({ name }) => !earlier.delete(name)).map(({ name }) => name);
  const tensors = [...added, ...earlier.keys()];
  return tensors.length > 0 ? `other tensors (${some(tensors)})` : undefined;
}

function metadataDifference(
  before: ReadonlyMap<string, GgufValue>,
  now: ReadonlyMap<string, GgufValue>,
): string | undefined {
  const keys = [...new Set([...now.keys(), ...before.keys()])].filter(
    (key) => !key.startsWith("split.") && !isSameValue(before.get(key), now.get(key)),
  );
  if (keys.length === 0) return undefined;
  const importance = keys.every((key) => key.startsWith("quantize.imatrix."));
  return `${importance ? "another importance matrix" : "other metadata"} (${some(keys)})`;
}

/** A number as the file holds it: of those that are planned, some have more digits. */
function stored(type: string, value: unknown): unknown {
  return type === "f32" && typeof value === "number" ? Math.fround(value) : value;
}

function isSameValue(a: GgufValue | undefined, b: GgufValue | undefined): boolean {
  if (a === undefined || b === undefined || a.type !== b.type) return a === b;
  if (a.type !== "array" || b.type !== "array") {
    return Object.is(stored(a.type, a.value), stored(b.type, b.value));
  }
  if (a.of !== b.of || a.value.length !== b.value.length) return false;
  if (a.of === "string" && b.of === "string") return Buffer.compare(a.value.bytes, b.value.bytes) === 0;
  const others = b.value as ArrayLike<unknown>;
  return Array.from(a.value as ArrayLike<unknown>).every((value, index) =>
    Object.is(stored(a.of, value), stored(b.of, others[index])),
  );
}
