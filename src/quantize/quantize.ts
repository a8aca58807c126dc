import { resolve } from "node:path";
import type { Plan, PlannedTensor } from "../plan/plan.js";
import { headerDifference } from "./header-difference.js";
import { Journal } from "./journal.js";
import { layoutPlan, type Metadata, type OutputLayout, type Splitting } from "./layout.js";
import { findTensors } from "./redo.js";
import { checkWorkRedo, isWorkDone, type RunOptions, type RunResult, runWork } from "./run.js";
import type { Place, Work, WorkTensor } from "./work.js";

export type { QuantizeProgress } from "./progress.js";

export interface RunPlanOptions extends Splitting, Omit<RunOptions, "redo"> {
  readonly plan: Plan;
  /** Path of the model, or of what its parts are named after. */
  readonly output: string;
  readonly metadata: Metadata;
  /**
   * Regular expression over names in GGUF: tensors that it finds are done again although they are finished, in
   * what an unfinished run has left or else in the whole files, which may then be replaced.
   */
  readonly redo?: string | undefined;
}

export type RunPlanResult = RunResult;

/**
 * Carries a plan out, into `<output>.partial` first: see `runWork`. `isComplete` then knows the files where the
 * journal is kept.
 *
 * @throws OutputError, LockError, QuantizeError, PoolError, GgufError; the signal's reason after an abort
 */
export async function runPlan(options: RunPlanOptions): Promise<RunPlanResult> {
  const { plan, redo } = options;
  options.signal?.throwIfAborted();
  const work = workOf(options);
  const again = redo === undefined ? undefined : { pattern: redo, tensors: findTensors(plan, redo) };
  return runWork(work, { ...options, redo: again });
}

/** What has to be equal for two runs to write the same files. */
type SameRun = Pick<RunPlanOptions, "plan" | "output" | "metadata" | "redo" | keyof Splitting>;

/**
 * Whether an earlier run with `keepJournal` has written just these files, and nobody has touched them since;
 * with `redo`, whether it was given the same.
 */
export async function isComplete(run: SameRun): Promise<boolean> {
  return isWorkDone(workOf(run), run.redo);
}

/**
 * Finds what is wrong with doing tensors again, before anything is written: nothing is there to take the others
 * from, or what is there is of other work. `runPlan` looks at that too.
 *
 * @throws QuantizeError (exit code 2)
 */
export async function checkRedo(run: SameRun & Pick<RunPlanOptions, "overwrite">): Promise<void> {
  await checkWorkRedo(workOf(run), run);
}

/** Removes the journal that a run with `keepJournal` has left. */
export async function forgetRun(output: string): Promise<void> {
  await Journal.discard(resolve(output));
}

/** The files of a plan, to the byte. */
function workOf({ plan, metadata, ...run }: SameRun): Work {
  const output = resolve(run.output);
  const laidOut = layoutPlan(plan, output, metadata, run);
  const { layout, paths } = laidOut;
  return {
    output,
    files: layout.parts.map(({ header, size }, part) => ({
      path: paths[part] ?? output,
      size,
      head: header,
    })),
    tensors: plan.tensors.map((tensor, index) => tensorOf(tensor, index, laidOut)),
    key: plan.hash,
    mix: plan.mix,
    importance: plan.importance,
    headDifference: (found) => headerDifference(found, layout, metadata),
  };
}

function tensorOf(tensor: PlannedTensor, index: number, { layout }: OutputLayout): WorkTensor {
  const { name, ne, values, origin, type, method, importance, factors, rounded } = tensor;
  const planned = layout.tensors[index];
  if (planned === undefined) throw new RangeError(`tensor ${name} has no place`);
  const place: Place = { file: planned.part, offset: planned.offset };
  if (origin.kind === "generated") {
    if (planned.byteLength !== origin.data.length)
      throw new RangeError(`generated tensor ${name} is not F32`);
    return { kind: "generated", name, data: origin.data, place };
  }
  const row = ne[0] ?? 1;
  return {
    kind: "stored",
    name,
    input: origin.path,
    inputOffset: origin.offset,
    places: [place],
    source: origin.type,
    target: type,
    row,
    rows: values / row,
    ...(method === "gptq" ? { copies: rounded?.pieces } : { method, importance, factors }),
  };
}
