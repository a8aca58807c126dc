// The tables of IQ1: which vectors of eight ternary digits are lattice points, and for the others the points
// around them, in the order in which they are compared.
//
// A vector is a number in base 3, its first digit the least significant. Lists hold points in groups of sixteen:
// two vectors of bytes, a byte for four digits, a nibble for two of them (0…8).

/** Points of the grid, eight bytes (-1, 0, 1) each, written by the host. */
const POINTS: i32 = 2048;
const VECTORS: i32 = 6561;
/** Groups of sixteen in all lists: 4513 vectors are no points, and 73 points on average lie around one. */
const GROUPS: i32 = 22647;
/** Distances that count as around: the three smallest that occur. */
const SHELLS: i32 = 3;

const ENTRIES_AT: usize = 8 * 2048;
const LISTS_AT: usize = 8 * 2048 + 26256;

/** Numbers of four digits: what a half of a vector can be. */
const HALVES: i32 = 81;

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

/** Squared distances of halves. */
const halfDistances: usize = memory.data(81 * 81, 16);
/** The halves of all points, first and second. */
const halves: usize = memory.data(2 * 2048, 16);
/** Distances of all points from one vector. */
const distances: usize = memory.data(2048, 16);

function digit(half: i32, place: i32): i32 {
  for (let i = 0; i < place; i++) half /= 3;
  return half % 3;
}

function measureHalves(): void {
  for (let a = 0; a < HALVES; a++) {
    for (let b = 0; b < HALVES; b++) {
      let distance = 0;
      for (let place = 0; place < 4; place++) {
        const difference = digit(a, place) - digit(b, place);
        distance += difference * difference;
      }
      store<u8>(halfDistances + HALVES * a + b, distance);
    }
  }
}

/** Enters the points by their vectors; all other entries become -1. */
function enterPoints(): void {
  memory.fill(tables + ENTRIES_AT, 0xff, 4 * VECTORS);
  for (let point = 0; point < POINTS; point++) {
    for (let side = 0; side < 2; side++) {
      const values = pointValues(point) + 4 * side;
      let half = 0;
      for (let place = 3; place >= 0; place--) half = 3 * half + load<i8>(values + place) + 1;
      store<u8>(halves + POINTS * side + point, half);
    }
    const vector = load<u8>(halves + point) + HALVES * load<u8>(halves + POINTS + point);
    store<i32>(tables + 4 * vector, point, ENTRIES_AT);
  }
}

/** Measures how far all points are from a vector; returns which distances occur, one bit each. */
function measure(vector: i32): u64 {
  const first = halfDistances + HALVES * (vector % HALVES);
  const second = halfDistances + HALVES * (vector / HALVES);
  let seen: u64 = 0;
  for (let point = 0; point < POINTS; point++) {
    const distance = load<u8>(first + load<u8>(halves + point)) + load<u8>(second + load<u8>(halves + POINTS + point));
    store<u8>(distances + point, distance);
    seen |= (<u64>1) << distance;
  }
  return seen;
}

/** A half as two nibbles of two digits each. */
// @ts-ignore: decorator
@inline function nibbles(half: i32): i32 {
  return (half % 9) | ((half / 9) << 4);
}

// @ts-ignore: decorator
@inline function put(list: usize, index: i32, first: i32, second: i32): void {
  const at = list + 32 * (index >> 4) + (index & 15);
  store<u8>(at, first);
  store<u8>(at, second, 16);
}

/** Lists the points around a vector; returns their number. A last group is filled with its last point. */
function listAround(vector: i32, list: usize): i32 {
  let seen = measure(vector);
  let count = 0;
  let first = 0;
  let second = 0;
  for (let shell = 0; shell < SHELLS; shell++) {
    const wanted = i8x16.splat(<i8>ctz(seen));
    seen &= seen - 1;
    for (let from = 0; from < POINTS; from += 16) {
      let hits = i8x16.bitmask(i8x16.eq(v128.load(distances + from), wanted));
      while (hits !== 0) {
        const point = from + ctz(hits);
        hits &= hits - 1;
        first = nibbles(load<u8>(halves + point));
        second = nibbles(load<u8>(halves + POINTS + point));
        put(list, count++, first, second);
      }
    }
  }
  while ((count & 15) !== 0) put(list, count++, first, second);
  return count;
}

/** Makes the tables behind the points at `at`. */
export function makeTernaryTables(at: usize): void {
  tables = at;
  measureHalves();
  enterPoints();
  let group = 0;
  for (let vector = 0; vector < VECTORS; vector++) {
    if (entryOf(vector) >= 0) continue;
    const groups = listAround(vector, tables + LISTS_AT + 32 * group) >> 4;
    store<i32>(tables + 4 * vector, ~((group << 4) | groups), ENTRIES_AT);
    group += groups;
  }
}
