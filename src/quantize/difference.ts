import { openFile } from "../../formats/file-source.js";
import type { GgufLayout } from "../../formats/gguf/plan.js";
import { readGguf } from "../../formats/gguf/read.js";
import type { GgufFile, GgufTensor, GgufValue } from "../../formats/gguf/types.js";
import { changeBetween, type FileIdentity, type JournalHead, type JournalSubject } from "./journal.js";
import type { Metadata } from "./layout.js";

/** Names that a message gives before it only counts. */
const MAX_NAMED = 3;

function some(names: readonly string[]): string {
  const more = names.length - MAX_NAMED;
  return names.slice(0, MAX_NAMED).join(", ") + (more > 0 ? ` and ${more} more` : "");
}

/** Whether two runs write the same bytes. */
export function isSameRun(head: JournalHead, key: JournalSubject): boolean {
  return (
    head.version === key.version &&
    head.plan === key.plan &&
    head.header === key.header &&
    JSON.stringify(head.inputs) === JSON.stringify(key.inputs)
  );
}

/**
 * In which way an unfinished run is not the one that is asked for, for people.
 *
 * @param partials where the unfinished files lie, for what their headers say
 */
export async function differenceOf(
  head: JournalHead,
  key: JournalSubject,
  partials: readonly string[],
  { layout, metadata }: { readonly layout: GgufLayout; readonly metadata: Metadata },
): Promise<string> {
  if (head.version !== key.version) return `lapidary ${head.version} began it, this is ${key.version}`;
  const ofHead =
    inputDifference(head.inputs, key.inputs) ??
    (head.mix === key.mix ? undefined : `it makes ${head.mix}, this would make ${key.mix}`) ??
    importanceDifference(head.importance, key.importance);
  if (ofHead !== undefined) return ofHead;
  const ofHeader = await headerDifference(partials, layout, metadata);
  if (ofHeader !== undefined) return `it has ${ofHeader}`;
  if (head.plan !== key.plan) return "it has other tensors, types, importance or another method";
  return head.header === key.header ? "its input files are in another order" : "it has other metadata";
}

/** Paths of files that are not among others. */
function pathsMissing(files: readonly FileIdentity[], others: readonly FileIdentity[]): string[] {
  return files.map(({ path }) => path).filter((path) => !others.some((other) => other.path === path));
}

function inputDifference(before: readonly FileIdentity[], now: readonly FileIdentity[]): string | undefined {
  for (const file of now) {
    const earlier = before.find(({ path }) => path === file.path);
    const change = earlier === undefined ? undefined : changeBetween(earlier, file);
    if (change !== undefined) return `its input ${change}`;
  }
  const gone = pathsMissing(before, now);
  const added = pathsMissing(now, before);
  if (gone.length > 0 && added.length > 0) return `it reads ${some(gone)}, this would read ${some(added)}`;
  if (gone.length > 0) return `it reads ${some(gone)}, this would not`;
  return added.length > 0 ? `it does not read ${some(added)}, this would` : undefined;
}

function importanceDifference(before: FileIdentity | null, now: FileIdentity | null): string | undefined {
  if (before === null && now === null) return undefined;
  if (before === null) return `it goes without an importance matrix, this would take ${now?.path}`;
  if (now === null) return `it takes the importance matrix ${before.path}, this would take none`;
  if (before.path !== now.path) {
    return `it takes the importance matrix ${before.path}, this would take ${now.path}`;
  }
  const change = changeBetween(before, now);
  return change === undefined ? undefined : `its importance matrix ${change}`;
}

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
