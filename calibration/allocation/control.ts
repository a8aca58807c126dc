import { type Allocation, type Choice, type Item } from "./solve.js";

/** Numbers from 0 to 1 by Marsaglia's xorshift, the same in every run. */
function randomNumbers(seed: number): () => number {
  let state = Math.imul(seed + 1, 0x9e3779b1) | 1;
  return () => {
    state ^= state << 13;
    state ^= state >>> 17;
    state ^= state << 5;
    return (state >>> 0) / 2 ** 32;
  };
}

/**
 * An allocation by chance within the same bytes, to see what choosing with care is worth: every item gets some choice,
 * items lose bytes one after the other while they are too many, and gain some while any fit.
 *
 * @param budget bytes, enough for the smallest choices
 */
export function randomAllocation(
  items: readonly Item[],
  budget: number,
  seed: number,
): Omit<Allocation, "price"> {
  const random = randomNumbers(seed);
  const sorted = items.map(({ name, choices }) => ({
    name,
    choices: choices.toSorted((a, b) => a.bytes - b.bytes || a.loss - b.loss),
  }));
  const places = sorted.map(({ choices }) => Math.floor(random() * choices.length));
  const bytes = (): number =>
    places.reduce((sum, place, item) => sum + sorted[item]!.choices[place]!.bytes, 0);
  while (bytes() > budget) {
    const item = Math.floor(random() * places.length);
    places[item] = Math.max(0, places[item]! - 1);
  }
  const order = sorted.map((_, item) => ({ item, key: random() })).toSorted((a, b) => a.key - b.key);
  for (const { item } of order) {
    for (let place = places[item]! + 1; place < sorted[item]!.choices.length; place++) {
      const before = places[item]!;
      places[item] = place;
      if (bytes() > budget) places[item] = before;
    }
  }
  const chosen = places.map((place, item): [string, Choice] => [
    sorted[item]!.name,
    sorted[item]!.choices[place]!,
  ]);
  return {
    choices: new Map(chosen),
    bytes: bytes(),
    loss: chosen.reduce((sum, [, { loss }]) => sum + loss, 0),
  };
}
