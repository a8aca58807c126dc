import type { Option } from "./frontier.js";

/** Another option for an item. */
interface Move {
  readonly item: number;
  readonly to: number;
  /** What it adds to the use and to the cost. */
  readonly use: number;
  readonly cost: number;
}

/** Moves with the least cost among those that use no more than some bound: the best, and the best of another item. */
interface Best {
  readonly first: Move;
  readonly second: Move | undefined;
}

/**
 * Finds the change of one item, or of two at once, that saves the most and leaves the use within the limit.
 *
 * @param chosen index of the option of each item
 * @param room what the limit leaves
 * @returns what is to be chosen instead; empty when nothing saves anything
 */
export function bestExchange(
  frontiers: readonly (readonly Option[])[],
  chosen: readonly number[],
  room: number,
): readonly Pick<Move, "item" | "to">[] {
  const moves = frontiers
    .flatMap((frontier, item) => movesOf(frontier, item, chosen[item]!))
    .toSorted((a, b) => a.use - b.use || a.cost - b.cost || a.item - b.item);
  const best = prefixBest(moves);
  const within = (bound: number): Best | undefined => best[countUpTo(moves, bound) - 1];
  let found: { readonly saved: number; readonly moves: readonly Move[] } = { saved: 0, moves: [] };
  const offer = (moves: readonly Move[]): void => {
    const saved = -moves.reduce((sum, { cost }) => sum + cost, 0);
    if (saved > found.saved) found = { saved, moves };
  };
  const alone = within(room);
  if (alone !== undefined) offer([alone.first]);
  for (const down of moves) {
    if (down.use >= 0) break;
    const other = within(room - down.use);
    const up = other?.first.item === down.item ? other.second : other?.first;
    if (up !== undefined) offer([down, up]);
  }
  return found.moves;
}

function movesOf(frontier: readonly Option[], item: number, at: number): Move[] {
  const { use, cost } = frontier[at]!;
  return [...frontier.entries()]
    .filter(([to]) => to !== at)
    .map(([to, option]) => ({ item, to, use: option.use - use, cost: option.cost - cost }));
}

/** For each move the best of those up to it. */
function prefixBest(moves: readonly Move[]): Best[] {
  const all: Best[] = [];
  for (const move of moves) {
    const last = all.at(-1);
    if (last === undefined) all.push({ first: move, second: undefined });
    else all.push(withMove(last, move));
  }
  return all;
}

function withMove(best: Best, move: Move): Best {
  const { first, second } = best;
  if (move.cost < first.cost) return { first: move, second: move.item === first.item ? second : first };
  if (move.item === first.item || (second !== undefined && move.cost >= second.cost)) return best;
  return { first, second: move };
}

/** How many of the moves, sorted by use, use no more than a bound. */
function countUpTo(moves: readonly Move[], bound: number): number {
  let [low, high] = [0, moves.length];
  while (low < high) {
    const middle = (low + high) >>> 1;
    if (moves[middle]!.use <= bound) low = middle + 1;
    else high = middle;
  }
  return low;
}
