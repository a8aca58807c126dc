import { changeBetween, type FileIdentity, type JournalHead, type JournalSubject } from "./journal.js";

/** Names that a message gives before it only counts. */
const MAX_NAMED = 3;

/** The first of some names, and how many more there are. */
export function some(names: readonly string[]): string {
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
 * @param headDifference in which way the unfinished files have other heads; asked only where they have
 */
export async function differenceOf(
  head: JournalHead,
  key: JournalSubject,
  headDifference: () => Promise<string | undefined>,
): Promise<string> {
  if (head.version !== key.version) return `lapidary ${head.version} began it, this is ${key.version}`;
  const ofHead =
    inputDifference(head.inputs, key.inputs) ??
    (head.mix === key.mix ? undefined : `it makes ${head.mix}, this would make ${key.mix}`) ??
    importanceDifference(head.importance, key.importance);
  if (ofHead !== undefined) return ofHead;
  const ofHeader = head.header === key.header ? undefined : await headDifference();
  if (ofHeader !== undefined) return `it has ${ofHeader}`;
  if (head.plan !== key.plan) return "it has other tensors, types, importance, balance or another method";
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
