import { createOutput, type OutputFiles, reopenOutput } from "../../formats/output-files.js";
import { OutputReader } from "../pool/hash.js";
import { MAX_TILE_VALUES } from "../pool/memory.js";
import { type EarlierRun, Journal, type TensorHash } from "./journal.js";
import type { ProgressReport } from "./progress.js";
import { checkWhole, copyWhole, type Redo } from "./redo.js";
import { jobOf, type Work } from "./work.js";

/** What a run begins with. */
export interface Start {
  readonly files: OutputFiles;
  /** Whether the files hold what an earlier run has left; else they can be thrown away. */
  readonly continued: boolean;
  /** Tensors in the files that are finished, by their index. */
  readonly kept: ReadonlyMap<number, TensorHash>;
  /** Finished tensors that have other bytes than were written. */
  readonly damaged: number;
  /** Finished tensors that are to be done again. */
  readonly redone: number;
}

export interface StartOptions {
  readonly work: Work;
  /** The same work, left unfinished. */
  readonly earlier: EarlierRun | undefined;
  readonly redo: Redo | undefined;
  readonly overwrite: boolean;
  readonly signal: AbortSignal | undefined;
  readonly report: ProgressReport;
}

/**
 * Opens the files to work on: those that an unfinished run has left; where there are none and tensors are to
 * be done again, copies of the whole ones; else new ones. What counts as finished was read back and has
 * the bytes that were written.
 *
 * @throws OutputError, QuantizeError; the signal's reason after an abort
 */
export async function startFiles(options: StartOptions): Promise<Start> {
  return (await continueRun(options)) ?? (await redoWhole(options)) ?? (await beginAnew(options));
}

async function beginAnew({ work, overwrite }: StartOptions): Promise<Start> {
  // A journal must not outlive the files that it tells of.
  await Journal.discard(work.output);
  const files = await createOutput(work.files, { overwrite });
  return { files, continued: false, kept: new Map(), damaged: 0, redone: 0 };
}

async function continueRun(options: StartOptions): Promise<Start | undefined> {
  const { work, earlier, redo, overwrite } = options;
  if (earlier === undefined || earlier.finished.size === 0) return undefined;
  const files = await reopenOutput(work.files, { overwrite });
  if (files === undefined) return undefined;
  // Of a run that was given the same pattern, the finished ones have been done again already.
  const dropped = earlier.head.redo === redo?.pattern ? undefined : redo?.tensors;
  const finished = [...earlier.finished].filter(([index]) => work.tensors[index]?.kind === "stored");
  const candidates = new Map(finished.filter(([index]) => dropped?.has(index) !== true));
  try {
    const checked = await check(options, files, candidates);
    return { files, continued: true, ...checked, redone: finished.length - candidates.size };
  } catch (error) {
    // The journal still tells of them.
    await files.suspend().catch(() => {});
    throw error;
  }
}

async function redoWhole(options: StartOptions): Promise<Start | undefined> {
  const { work, earlier, redo, signal, report } = options;
  if (redo === undefined) return undefined;
  try {
    await checkWhole(work);
  } catch (error) {
    // An unfinished run that got nowhere: everything is still to be done, those tensors too.
    if (earlier !== undefined) return undefined;
    throw error;
  }
  await Journal.discard(work.output);
  report.checking(work.tensors[0]?.name ?? "");
  await copyWhole(
    work.files.map(({ path }) => path),
    signal,
  );
  const files = await reopenOutput(work.files, { overwrite: true });
  if (files === undefined) throw new RangeError(`the copy of ${work.output} has another size`);
  const stored = work.tensors.flatMap(({ kind }, index) => (kind === "stored" ? [index] : []));
  const kept = stored.filter((index) => !redo.tensors.has(index));
  try {
    const checked = await check(options, files, new Map(kept.map((index) => [index, undefined])));
    // The journal may not name what a crash could still undo.
    await files.sync();
    return { files, continued: false, ...checked, redone: stored.length - kept.length };
  } catch (error) {
    await files.abort();
    throw error;
  }
}

/** Reads tensors back; those without a hash so far get one. */
async function check(
  { work, signal, report }: StartOptions,
  files: OutputFiles,
  candidates: ReadonlyMap<number, TensorHash | undefined>,
): Promise<Pick<Start, "kept" | "damaged">> {
  const kept = new Map<number, TensorHash>();
  const reader = await OutputReader.create();
  try {
    for (const [index, expected] of candidates) {
      const tensor = work.tensors[index];
      if (tensor?.kind !== "stored") continue;
      const tile = expected?.tile ?? MAX_TILE_VALUES;
      const hash = await reader.hash(jobOf(tensor, files), tile, () => {
        signal?.throwIfAborted();
        report.checking(tensor.name);
      });
      if (hash === undefined || (expected !== undefined && expected.hash !== hash)) continue;
      kept.set(index, { tile, hash });
      report.keep(tensor);
    }
  } finally {
    await reader.close();
  }
  return { kept, damaged: candidates.size - kept.size };
}
