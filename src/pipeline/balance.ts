import type { BalanceRule, BalanceTensor, ChosenFold } from "../../calibration/balance/types.js";
import { ggmlShape } from "../gemma4/gguf/tensors.js";
import { DTYPES } from "../plan/onnx/dtypes.js";
import { balanceOnnx, type OnnxPlan, type PlannedGraph, type PlannedMatrix } from "../plan/onnx/plan.js";
import { balancePlan, type Plan } from "../plan/plan.js";
import type { Reporter } from "./progress.js";

/** Whether channels are balanced before they are rounded; `auto` where it leaves clearly less of the errors. */
export type BalanceChoice = "auto" | "off";

/** A fold whose channels were scaled, for people and for the manifest. */
export interface BalancedFold {
  /** The tensor that gives the channels out, such as `blk.0.attn_norm.weight`. */
  readonly name: string;
  readonly rule: BalanceRule;
  /** How many channels have which exponent of two, the smallest exponent first. */
  readonly exponents: readonly { readonly exponent: number; readonly channels: number }[];
  /** Relative squared error of the matrices, weighed by their inputs, without and with the scales. */
  readonly before: number;
  readonly after: number;
}

/** What is kept of chosen folds. */
function describeFolds(folds: readonly ChosenFold[]): BalancedFold[] {
  return folds.map(({ fold, exponents, rule, before, after }) => {
    const counts = new Map<number, number>();
    for (const exponent of exponents) counts.set(exponent, (counts.get(exponent) ?? 0) + 1);
    return {
      name: fold.name,
      rule,
      exponents: [...counts]
        .map(([exponent, channels]) => ({ exponent, channels }))
        .toSorted((a, b) => a.exponent - b.exponent),
      before,
      after,
    };
  });
}

/** The method that errors are compared by: feedback begins with a search, and what is kept has no errors. */
function plainMethod<T extends string>(method: T | "lattice" | "gptq") {
  if (method === "lattice") return "ggml" as const;
  return method === "gptq" ? ("search" as const) : (method as Exclude<T, "lattice" | "gptq">);
}

function tensorsOf({ tensors }: Plan): BalanceTensor[] {
  return tensors.flatMap(({ name, ne, origin, type, method, importance, unused }) =>
    origin.kind === "generated"
      ? []
      : [
          {
            name,
            ne,
            path: origin.path,
            offset: origin.offset,
            source: origin.type,
            target: type,
            method: plainMethod(method),
            importance,
            fixed: method === "lattice",
            unused,
          },
        ],
  );
}

function targetOf(form: PlannedMatrix["form"]): BalanceTensor["target"] {
  if (form.kind === "nbits") return form;
  return form.type === "FLOAT" ? "F32" : "F16";
}

/** Whole weights, whatever they are cut into. */
function tensorsOfGraph({ matrices }: PlannedGraph): BalanceTensor[] {
  const whole = matrices.filter(({ firstRow, inputColumn }) => firstRow === 0 && inputColumn === 0);
  return whole.map(({ weight, origin, form, method, importance }) => ({
    name: weight.gguf,
    ne: ggmlShape(weight.shape),
    path: origin.path,
    offset: origin.offset,
    source: origin.type,
    target: targetOf(form),
    method: plainMethod(method),
    importance,
    // The columns of a stack that is cut between its matrices would have to be cut too.
    fixed: weight.shape.length > 2 && matrices.filter((other) => other.weight === weight).length > 1,
  }));
}

/** Looks for folds of tensors that pay, and says so. */
async function findFolds(
  tensors: readonly BalanceTensor[],
  { label, halves }: { readonly label: string; readonly halves: boolean },
  reporter: Reporter,
  signal: AbortSignal,
): Promise<ChosenFold[]> {
  const { chooseBalance } = await import("../../calibration/balance/choose.js");
  let started = false;
  const folds = await chooseBalance(tensors, {
    halves,
    signal,
    onProgress: (done, total) => {
      if (total === 0) return;
      if (!started) reporter.start(label);
      started = true;
      reporter.progress({ done, total, unit: "folds" });
    },
  });
  if (started) reporter.finish(folds.length === 0 ? "nothing to balance" : `${folds.length} folds`);
  return folds;
}

/** A plan whose channels are balanced where it pays, and what was done; null where it was not asked for. */
export async function balanced(
  plan: Plan,
  choice: BalanceChoice,
  reporter: Reporter,
  signal: AbortSignal,
): Promise<{ plan: Plan; balance: readonly BalancedFold[] | null }> {
  if (choice === "off") return { plan, balance: null };
  const folds = await findFolds(
    tensorsOf(plan),
    { label: `balance ${plan.mix}`, halves: false },
    reporter,
    signal,
  );
  return { plan: balancePlan(plan, folds), balance: describeFolds(folds) };
}

/** The same for the graphs of a package, each by itself; what was done to each of them. */
export async function balancedExport(
  plan: OnnxPlan,
  choice: BalanceChoice,
  reporter: Reporter,
  signal: AbortSignal,
): Promise<{ plan: OnnxPlan; balance: readonly (readonly BalancedFold[])[] | null }> {
  if (choice === "off") return { plan, balance: null };
  const chosen: ChosenFold[][] = [];
  for (const graph of plan.graphs) {
    const halves = DTYPES[graph.dtype].internal === "FLOAT16";
    const label = `balance ${graph.file}`;
    chosen.push(await findFolds(tensorsOfGraph(graph), { label, halves }, reporter, signal));
  }
  return { plan: balanceOnnx(plan, chosen), balance: chosen.map((folds) => describeFolds(folds)) };
}
