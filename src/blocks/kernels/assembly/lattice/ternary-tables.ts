// The tables of IQ1: which vectors of eight ternary digits are lattice points, and for the others the points
// around them, in the order in which they are compared.
//
// A vector is a number in base 3, its first digit the least significant. Lists hold points in groups of
// sixteen: two vectors of bytes, a byte for four digits, a nibble for two of them: the first and four times the second.

/** Points of the grid, eight bytes (-1, 0, 1) each, written by the host. */
const POINTS: i32 = 2048;
const VECTORS: i32 = 6561;
/** Groups of sixteen in all lists: 4513 vectors are no points, and 73 points on average lie around one. */
const GROUPS: i32 = 22647;
/** Distances that count as around: the three smallest that occur. */
const SHELLS: i32 = 3;

const ENTRIES_AT: usize = 8 * 2048;
const LISTS_AT: usize = 8 * 2048 + 26256;

let tables: usize = 0;

export function ternaryTableBytes(): i32 {
  return <i32>LISTS_AT + 32 * GROUPS;
}

/** The eight values of a point. */
// @ts-ignore: decorator
@inline export function pointValues(point: i32): usize {
  return tables + 8 * <usize>point;
}

/** Index of a vector's point; negative when it is none, see `listOf` and `groupsOf`. */
// @ts-ignore: decorator
@inline export function entryOf(vector: i32): i32 {
  return load<i32>(tables + 4 * <usize>vector, ENTRIES_AT);
}

/** First group of the points around a vector with a negative entry. */
// @ts-ignore: decorator
@inline export function listOf(entry: i32): usize {
  return tables + LISTS_AT + 32 * <usize>(~entry >> 4);
}

/** Number of groups of the points around a vector with a negative entry. */
// @ts-ignore: decorator
@inline export function groupsOf(entry: i32): i32 {
  return ~entry & 15;
}

/** Squared distances of two digits from two others, as nibbles: a vector of bytes for each. */
const pairDistances: usize = memory.data(11 * 16, 16);
/** The first and the second four digits of all points, as in lists. */
const firsts: usize = memory.data(2048, 16);
const seconds: usize = memory.data(2048, 16);
/** Distances of all points from one vector. */
const distances: usize = memory.data(2048, 16);

function measurePairs(): void {
  for (let a = 0; a < 11; a++) {
    for (let b = 0; b < 11; b++) {
      const lower = (a & 3) - (b & 3);
      const upper = (a >> 2) - (b >> 2);
      store<u8>(pairDistances + 16 * a + b, lower * lower + upper * upper);
    }
  }
}

/** Two digits of a point as a number in base 3. */
function pair(values: usize): i32 {
  return load<i8>(values) + 1 + 3 * (load<i8>(values, 1) + 1);
}

/** The nibble of two digits, a number in base 3. */
function nibbleOf(pair: i32): i32 {
  return (pair % 3) + 4 * (pair / 3);
}

/** Enters the points by their vectors; all other entries become -1. */
function enterPoints(): void {
  memory.fill(tables + ENTRIES_AT, 0xff, 4 * VECTORS);
  for (let point = 0; point < POINTS; point++) {
    const values = pointValues(point);
    const a = pair(values);
    const b = pair(values + 2);
    const c = pair(values + 4);
    const d = pair(values + 6);
    store<u8>(firsts + point, nibbleOf(a) | (nibbleOf(b) << 4));
    store<u8>(seconds + point, nibbleOf(c) | (nibbleOf(d) << 4));
    store<i32>(tables + 4 * (a + 9 * (b + 9 * (c + 9 * d))), point, ENTRIES_AT);
  }
}

/** Measures how far all points are from a vector. */
function measure(vector: i32): void {
  const a = v128.load(pairDistances + 16 * nibbleOf(vector % 9));
  const b = v128.load(pairDistances + 16 * nibbleOf((vector / 9) % 9));
  const c = v128.load(pairDistances + 16 * nibbleOf((vector / 81) % 9));
  const d = v128.load(pairDistances + 16 * nibbleOf(vector / 729));
  const nibble = i8x16.splat(15);
  for (let point = 0; point < POINTS; point += 16) {
    const first = v128.load(firsts + point);
    const second = v128.load(seconds + point);
    const distance = i8x16.add(
      i8x16.add(v128.swizzle(a, v128.and(first, nibble)), v128.swizzle(b, i8x16.shr_u(first, 4))),
      i8x16.add(v128.swizzle(c, v128.and(second, nibble)), v128.swizzle(d, i8x16.shr_u(second, 4))),
    );
    v128.store(distances + point, distance);
  }
}

/** The smallest of sixteen unsigned bytes. */
// @ts-ignore: decorator
@inline export function smallestByte(bytes: v128): i32 {
  let a = i8x16.min_u(bytes, v128.shuffle<i64>(bytes, bytes, 1, 0));
  a = i8x16.min_u(a, v128.shuffle<i32>(a, a, 1, 0, 3, 2));
  a = i8x16.min_u(a, v128.shuffle<i16>(a, a, 1, 0, 3, 2, 5, 4, 7, 6));
  return min(i8x16.extract_lane_u(a, 0), i8x16.extract_lane_u(a, 1));
}

/** The smallest distance above one. */
function distanceAbove(distance: i32): i32 {
  const below = i8x16.splat(<i8>distance);
  let smallest = i8x16.splat(127);
  for (let point = 0; point < POINTS; point += 16) {
    const lanes = v128.load(distances + point);
    smallest = v128.bitselect(i8x16.min_u(smallest, lanes), smallest, i8x16.gt_u(lanes, below));
  }
  return smallestByte(smallest);
}

/** Appends a point to a list. */
// @ts-ignore: decorator
@inline function put(list: usize, index: i32, point: i32): void {
  const at = list + 32 * (index >> 4) + (index & 15);
  store<u8>(at, load<u8>(firsts + point));
  store<u8>(at, load<u8>(seconds + point), 16);
}

/** Lists the points around a vector; returns their number. A last group is filled with its last point. */
function listAround(vector: i32, list: usize): i32 {
  measure(vector);
  let distance = 0;
  let count = 0;
  let point = 0;
  for (let shell = 0; shell < SHELLS; shell++) {
    distance = distanceAbove(distance);
    for (let from = 0; from < POINTS; from += 16) {
      let hits = i8x16.bitmask(i8x16.eq(v128.load(distances + from), i8x16.splat(<i8>distance)));
      for (; hits !== 0; hits &= hits - 1) {
        point = from + ctz(hits);
        put(list, count++, point);
      }
    }
  }
  while ((count & 15) !== 0) put(list, count++, point);
  return count;
}

/** Makes the tables behind the points at `at`. */
export function makeTernaryTables(at: usize): void {
  tables = at;
  measurePairs();
  enterPoints();
  let group = 0;
  for (let vector = 0; vector < VECTORS; vector++) {
    if (entryOf(vector) >= 0) continue;
    const groups = listAround(vector, tables + LISTS_AT + 32 * group) >> 4;
    store<i32>(tables + 4 * vector, ~((group << 4) | groups), ENTRIES_AT);
    group += groups;
  }
}
