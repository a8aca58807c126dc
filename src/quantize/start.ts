import { createGguf, type GgufOutput, reopenGguf } from "../../formats/gguf/write.js";
import { OutputReader } from "../pool/hash.js";
import { MAX_TILE_VALUES } from "../pool/memory.js";
import type { TensorJob } from "../pool/tiles.js";
import type { Plan } from "../plan/plan.js";
import { type EarlierRun, Journal, type TensorHash } from "./journal.js";
import type { Metadata, OutputLayout } from "./layout.js";
import type { ProgressReport } from "./progress.js";
import { checkWhole, copyWhole } from "./redo.js";

/** What a run begins with. */
export interface Start {
  readonly files: GgufOutput;
  /** Whether the files hold what an earlier run has left; else they can be thrown away. */
  readonly continued: boolean;
  /** Tensors in the files that are finished, by their index in the plan. */
  readonly kept: ReadonlyMap<number, TensorHash>;
  /** Finished tensors that have other bytes than were written. */
  readonly damaged: number;
  /** Finished tensors that are to be done again. */
  readonly redone: number;
}

export interface StartOptions {
  readonly plan: Plan;
  readonly output: string;
  readonly metadata: Metadata;
  readonly laidOut: OutputLayout;
  /** The same work, left unfinished. */
  readonly earlier: EarlierRun | undefined;
  readonly redo: { readonly pattern: string; readonly tensors: ReadonlySet<number> } | undefined;
  readonly overwrite: boolean;
  readonly signal: AbortSignal | undefined;
  readonly report: ProgressReport;
}

/**
 * Opens the files to work on: those that an unfinished run has left; where there are none and tensors are to
 * be done again, copies of the whole ones; else new ones. What counts as finished was read back and has
 * the bytes that were written.
 *
 * @throws OutputError, GgufError, QuantizeError; the signal's reason after an abort
 */
export async function startFiles(options: StartOptions): Promise<Start> {
  return (await continueRun(options)) ?? (await redoWhole(options)) ?? (await beginAnew(options));
}

async function beginAnew({ output, laidOut, overwrite }: StartOptions): Promise<Start> {
  // A journal must not outlive the files that it tells of.
  await Journal.discard(output);
  const files = await createGguf(output, laidOut.layout, { overwrite });
  return { files, continued: false, kept: new Map(), damaged: 0, redone: 0 };
}

async function continueRun(options: StartOptions): Promise<Start | undefined> {
  const { plan, output, laidOut, earlier, redo, overwrite } = options;
  if (earlier === undefined || earlier.finished.size === 0) return undefined;
  const files = await reopenGguf(output, laidOut.layout, { overwrite });
  if (files === undefined) return undefined;
  // Of a run that was given the same pattern, the finished ones have been done again already.
  const dropped = earlier.head.redo === redo?.pattern ? undefined : redo?.tensors;
  const finished = [...earlier.finished].filter(([index]) => plan.tensors[index]?.origin.kind === "file");
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
  const { plan, output, metadata, laidOut, earlier, redo, signal, report } = options;
  if (redo === undefined) return undefined;
  try {
    await checkWhole(laidOut, metadata);
  } catch (error) {
    // An unfinished run that got nowhere: everything is still to be done, those tensors too.
    if (earlier !== undefined) return undefined;
    throw error;
  }
  await Journal.discard(output);
  report.checking(plan.tensors[0]?.name ?? "");
  await copyWhole(laidOut.paths, signal);
  const files = await reopenGguf(output, laidOut.layout, { overwrite: true });
  if (files === undefined) throw new RangeError(`the copy of ${output} has another size`);
  const stored = plan.tensors.flatMap(({ origin }, index) => (origin.kind === "file" ? [index] : []));
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
  { plan, laidOut, signal, report }: StartOptions,
  files: GgufOutput,
  candidates: ReadonlyMap<number, TensorHash | undefined>,
): Promise<Pick<Start, "kept" | "damaged">> {
  const kept = new Map<number, TensorHash>();
  const reader = await OutputReader.create();
  try {
    for (const [index, expected] of candidates) {
      const tensor = plan.tensors[index];
      if (tensor === undefined) continue;
      const tile = expected?.tile ?? MAX_TILE_VALUES;
      const job = jobOf(plan, laidOut, files, index);
      const hash = await reader.hash(job, tile, () => {
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

/** How a tensor gets from the file that it comes from to its place in a file in the making. */
export function jobOf(plan: Plan, { layout }: OutputLayout, files: GgufOutput, index: number): TensorJob {
  const tensor = plan.tensors[index];
  const place = layout.tensors[index];
  const part = files.parts[place?.part ?? -1];
  if (tensor?.origin.kind !== "file" || place === undefined || part === undefined)
    throw new RangeError(`tensor ${tensor?.name ?? index} has no file`);
  const { name, ne, values, origin, type, method, importance } = tensor;
  const row = ne[0] ?? 1;
  return {
    name,
    input: origin.path,
    inputOffset: origin.offset,
    outputs: [{ path: part.temporaryPath, offset: place.offset }],
    source: origin.type,
    target: type,
    row,
    rows: values / row,
    method,
    importance,
  };
}
