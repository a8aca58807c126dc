/** A choice as the solver sees it: what it takes of the limit, and what it costs. */
export interface Option {
  /** Name of the type, which settles ties. */
  readonly type: string;
  readonly use: number;
  readonly cost: number;
}

/** From one option of an item to a larger one. */
export interface Step {
  /** Index of the item. */
  readonly item: number;
  /** Indices of the item's options. */
  readonly from: number;
  readonly to: number;
  /** Cost that is saved by each unit of use. */
  readonly slope: number;
}

/** The options that no other one beats in both, from the smallest use on; costs fall. */
export function frontierOf<T extends Option>(options: readonly T[]): T[] {
  const kept: T[] = [];
  for (const option of options.toSorted(
    (a, b) => a.use - b.use || a.cost - b.cost || order(a.type, b.type),
  )) {
    const last = kept.at(-1);
    if (last === undefined || option.cost < last.cost) kept.push(option);
  }
  return kept;
}

/** Steps along the lower convex hull of a frontier; slopes fall. */
export function hullSteps(item: number, frontier: readonly Option[]): Step[] {
  const hull: number[] = [];
  const slope = (from: number, to: number): number =>
    (frontier[from]!.cost - frontier[to]!.cost) / (frontier[to]!.use - frontier[from]!.use);
  for (const index of frontier.keys()) {
    while (hull.length > 1 && slope(hull.at(-2)!, hull.at(-1)!) <= slope(hull.at(-1)!, index)) hull.pop();
    hull.push(index);
  }
  return hull.slice(1).map((to, place) => ({ item, from: hull[place]!, to, slope: slope(hull[place]!, to) }));
}

/** Bytewise, the same on every machine. */
export function order(a: string, b: string): number {
  return a < b ? -1 : Number(a > b);
}
