import { AllocationError } from "./errors.js";
import { bestExchange } from "./exchange.js";
import { frontierOf, hullSteps, type Option, order, type Step } from "./frontier.js";

/** A type that a weight can have. */
export interface Choice {
  /** Name of the type; no other choice of the weight has it. */
  readonly type: string;
  /** A whole number. */
  readonly bytes: number;
  /** What rounding to it costs, such as an estimate of the KL divergence in nats; losses add up. */
  readonly loss: number;
}

/** A weight, or weights that have to be of the same type. */
export interface Item {
  readonly name: string;
  readonly choices: readonly Choice[];
}

/** A choice for every item. */
export interface Allocation {
  readonly choices: ReadonlyMap<string, Choice>;
  readonly bytes: number;
  readonly loss: number;
  /**
   * What the last bytes were worth, in loss a byte: the Lagrange multiplier. 0 when everything got its best choice,
   * however large the limit.
   */
  readonly price: number;
}

/** Exchanges that are looked for after the hull has been followed, per item: each is one sort of all choices. */
const EXCHANGES_PER_ITEM = 4;

interface Problem {
  readonly names: readonly string[];
  readonly frontiers: readonly (readonly (Option & { readonly choice: Choice })[])[];
  readonly limit: number;
}

/**
 * The items as one that needs a single type for all of them: types that every one can have, bytes and losses added.
 *
 * @throws AllocationError `no-common-type`
 */
export function joinItems(name: string, items: readonly Item[]): Item {
  const [first, ...others] = items;
  const choices = (first?.choices ?? []).flatMap((choice) => {
    const same = others.map(({ choices }) => choices.find(({ type }) => type === choice.type));
    if (same.includes(undefined)) return [];
    const all = [choice, ...(same as Choice[])];
    return [{ type: choice.type, bytes: sum(all, "bytes"), loss: sum(all, "loss") }];
  });
  if (choices.length > 0) return { name, choices };
  throw new AllocationError(
    "no-common-type",
    `${name}: there is no type that all of ${items.map((item) => item.name).join(", ")} can have.`,
    { exitCode: 2, advice: "Allow more types." },
  );
}

/**
 * The choices of the least loss in no more than some bytes: along the lower convex hull of each item's choices as far as
 * one price of a byte for all items leads (Everett, "Generalized Lagrange multiplier method", 1963), then step by step
 * while anything fits, then by changing one or two items at a time. What is lost against the best of all allocations is
 * less than the largest single step along a hull. The same input gives the same result, in any order of items and choices.
 *
 * @param budget bytes; any more than the best choices need is left
 * @throws AllocationError `budget-too-small`, with the bytes that are needed at least; RangeError for choices that are none
 */
export function leastLoss(items: readonly Item[], budget: number): Allocation {
  const problem = problemOf(items, budget, ({ bytes, loss }) => ({ use: bytes, cost: loss }));
  const least = problem.frontiers.reduce((total, [smallest]) => total + smallest!.use, 0);
  if (least > budget) {
    throw new AllocationError(
      "budget-too-small",
      `the weights take ${least} bytes in the smallest of their types, which is more than the budget of ${budget} leaves.`,
      { exitCode: 2, advice: `Allow ${least} bytes, or smaller types.` },
    );
  }
  return allocationOf(problem, (step) => step.slope);
}

/**
 * The choices of the fewest bytes with no more than some loss, found in the same way.
 *
 * @throws AllocationError `loss-too-small`, with the loss that is left at least; RangeError for choices that are none
 */
export function leastBytes(items: readonly Item[], loss: number): Allocation {
  const problem = problemOf(items, loss, (choice) => ({ use: choice.loss, cost: choice.bytes }));
  const least = problem.frontiers.reduce((total, [smallest]) => total + smallest!.use, 0);
  if (least > loss) {
    throw new AllocationError(
      "loss-too-small",
      `the best of the types leave a loss of ${least.toPrecision(4)}, which is more than ${loss}.`,
      { exitCode: 2, advice: `Allow a loss of ${least.toPrecision(4)}, or larger types.` },
    );
  }
  return allocationOf(problem, (step) => 1 / step.slope);
}

function problemOf(
  items: readonly Item[],
  limit: number,
  view: (choice: Choice) => { readonly use: number; readonly cost: number },
): Problem {
  const sorted = items.toSorted((a, b) => order(a.name, b.name));
  for (const [index, item] of sorted.entries()) checkItem(item, sorted[index + 1]);
  const frontiers = sorted.map(({ choices }) =>
    frontierOf(choices.map((choice) => ({ choice, type: choice.type, ...view(choice) }))),
  );
  return { names: sorted.map(({ name }) => name), frontiers, limit };
}

function checkItem({ name, choices }: Item, next: Item | undefined): void {
  if (name === next?.name) throw new RangeError(`there are two items called ${name}`);
  if (choices.length === 0) throw new RangeError(`${name} has no choices`);
  for (const { type, bytes, loss } of choices) {
    if (Number.isSafeInteger(bytes) && bytes >= 0 && Number.isFinite(loss) && loss >= 0) continue;
    throw new RangeError(`${name} as ${type} has ${bytes} bytes and a loss of ${loss}`);
  }
}

/** @param priceOf loss a byte of a step */
function allocationOf(problem: Problem, priceOf: (step: Step) => number): Allocation {
  const { names, frontiers } = problem;
  const chosen = frontiers.map(() => 0);
  const price = followHulls(problem, chosen, priceOf);
  exchange(problem, chosen);
  const choices = chosen.map((option, item) => frontiers[item]![option]!.choice);
  return {
    choices: new Map(names.map((name, item) => [name, choices[item]!])),
    bytes: sum(choices, "bytes"),
    loss: sum(choices, "loss"),
    price,
  };
}

/** Takes the steepest steps of all hulls for as long as they fit, and behind the first that does not each that does. */
function followHulls(
  { frontiers, limit }: Problem,
  chosen: number[],
  priceOf: (step: Step) => number,
): number {
  const steps = frontiers
    .flatMap((frontier, item) => hullSteps(item, frontier))
    .toSorted((a, b) => b.slope - a.slope || a.item - b.item || a.from - b.from);
  let price = 0;
  for (const step of steps) {
    if (chosen[step.item] !== step.from) continue;
    chosen[step.item] = step.to;
    if (useOf(frontiers, chosen) <= limit) continue;
    chosen[step.item] = step.from;
    price ||= priceOf(step);
  }
  return price;
}

function exchange({ frontiers, limit }: Problem, chosen: number[]): void {
  for (let left = EXCHANGES_PER_ITEM * frontiers.length; left > 0; left--) {
    const before = [...chosen];
    const moves = bestExchange(frontiers, chosen, limit - useOf(frontiers, chosen));
    for (const { item, to } of moves) chosen[item] = to;
    // Sums of losses are rounded: what seemed to fit, or to be cheaper, may not be so by a hair.
    const better = costOf(frontiers, chosen) < costOf(frontiers, before);
    if (moves.length > 0 && better && useOf(frontiers, chosen) <= limit) continue;
    chosen.splice(0, chosen.length, ...before);
    return;
  }
}

function useOf(frontiers: Problem["frontiers"], chosen: readonly number[]): number {
  return chosen.reduce((total, option, item) => total + frontiers[item]![option]!.use, 0);
}

function costOf(frontiers: Problem["frontiers"], chosen: readonly number[]): number {
  return chosen.reduce((total, option, item) => total + frontiers[item]![option]!.cost, 0);
}

function sum(choices: readonly Choice[], key: "bytes" | "loss"): number {
  return choices.reduce((total, choice) => total + choice[key], 0);
}
