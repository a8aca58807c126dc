// Which points of a grid a group of values can become.
//
// A point or any other vector of digits has a code: its digits as a number in base 3 (groups of eight) or 8 (groups
// of four), the first digit the least. A point also has a word: its steps 2·digit + 1 in nibbles, the first the
// lowest. The tables give for each code either the word of its point, marked ON_GRID, or where the list of its
// neighbours is: 16 bytes with their number, then the words, those of nearer points first and among equally near ones
// those of lower index; the last is repeated to fill its vector. For groups of eight as many words follow with the
// codes of the four pairs of digits, times 16, in their bytes.

/** The mark of a word that came from a code with a point: a bit that no step uses. */
export const ON_GRID: i32 = 0x80000000;

/** Where the parts of a type's tables start; the points as the host wrote them come first. */
const ENTRIES: usize = 8192;
const INDICES: usize = ENTRIES + 26256;
const LISTS: usize = INDICES + 13136;

/** Tables of each type, from IQ2_XXS (16) to IQ2_S (22). */
const tables = memory.data(7 * sizeof<usize>(), 16);

/** Tables of the type that is being encoded: in all, and the parts that give entries and indices by code. */
export let base: usize = 0;
let entries: usize = 0;
let indices: usize = 0;

/** Scratch of the making: digits by element, words, and distances of a code from all points. */
const digits: usize = memory.data(8 * 1024, 16);
const words: usize = memory.data(4 * 1024, 16);
const distances: usize = memory.data(1024, 16);
const lanes: usize = memory.data(16, 16);
/** Squares of the differences of two digits. */
const squares: v128 = i8x16(0, 1, 4, 9, 16, 25, 36, 49, 0, 0, 0, 0, 0, 0, 0, 0);

/** Bytes of the lists of all neighbours; they follow from the grids, which are fixed. */
function listBytes(target: i32): i32 {
  switch (target) {
    case 16:
      return 1082224;
    case 17:
      return 1622608;
    case 18:
      return 158048;
    case 21:
      return 176176;
    case 22:
      return 523504;
  }
  return unreachable();
}

export function isEight(target: i32): bool {
  return target !== 18 && target !== 21;
}

export function pointsOf(target: i32): i32 {
  if (target === 16 || target === 18) return 256;
  return target === 22 ? 1024 : 512;
}

/** How many different distances the neighbours of a code may have. */
function shellsOf(target: i32): i32 {
  if (target === 22) return 1;
  return target === 21 ? 3 : 2;
}

/** Bytes of the tables of a type. */
export function latticeBytesOf(target: i32): usize {
  return LISTS + listBytes(target);
}

/** Makes the tables of a type the current ones. */
export function useTables(target: i32): void {
  base = load<usize>(tables + <usize>(target - 16) * sizeof<usize>());
  entries = base + ENTRIES;
  indices = base + INDICES;
}

/** The word of a code's point, marked, or where the list of its neighbours starts, counted from `base`. */
// @ts-ignore: decorator
@inline export function entryOf(code: i32): i32 {
  return load<i32>(entries + 4 * <usize>code);
}

/** Index of the point with a word. */
// @ts-ignore: decorator
@inline export function indexOf(word: i32, eight: bool): i32 {
  let code: i32;
  if (eight) {
    const digits = (word >>> 1) & 0x33333333;
    const pairs = (digits & 0x0f0f0f0f) + 3 * ((digits >>> 4) & 0x0f0f0f0f);
    const fours = (pairs & 0x00ff00ff) + 9 * ((pairs >>> 8) & 0x00ff00ff);
    code = (fours & 0xffff) + 81 * (fours >>> 16);
  } else {
    const digits = (word >>> 1) & 0x7777;
    const pairs = (digits & 0x0f0f) + 8 * ((digits >>> 4) & 0x0f0f);
    code = (pairs & 0xff) + 64 * (pairs >>> 8);
  }
  return load<u16>(indices + 2 * <usize>code);
}

/** The digit of an element as decoders know it; see `levels` in `decode/grids.ts`. */
export function digitOf(target: i32, level: i32): i32 {
  if (isEight(target)) return level >> 4;
  return target === 18 ? level >> 3 : level >> 1;
}

/** Reads the points: digits, words, entries and indices. */
function readPoints(target: i32): void {
  const eight = isEight(target);
  const width = eight ? 8 : 4;
  const radix = eight ? 3 : 8;
  for (let point: i32 = 0; point < pointsOf(target); point++) {
    let code = 0;
    let word = 0;
    for (let k = width - 1; k >= 0; k--) {
      const digit = digitOf(target, load<u8>(base + point * width + k));
      store<u8>(digits + 1024 * k + point, digit);
      code = radix * code + digit;
      word = (word << 4) | (2 * digit + 1);
    }
    store<u32>(words + 4 * point, word);
    store<u32>(entries + 4 * code, word | ON_GRID);
    store<u16>(indices + 2 * code, point);
  }
}

/** Measures all points from a code, in squares of digits. */
export function measure(code: i32, width: i32, radix: i32, points: i32): void {
  for (let point = 0; point < points; point += 16) {
    let distance = i8x16.splat(0);
    let rest = code;
    for (let k = 0; k < width; k++) {
      const digit = i8x16.splat(<i8>(rest % radix));
      const difference = i8x16.abs(i8x16.sub(v128.load(digits + 1024 * k + point), digit));
      distance = i8x16.add(distance, i8x16.swizzle(squares, difference));
      rest /= radix;
    }
    v128.store(distances + point, distance);
  }
}

/** The least distance above one. */
function nextShell(last: i32, points: i32): i32 {
  const above = i8x16.splat(<i8>(last + 1));
  let least = i8x16.splat(-1);
  for (let point = 0; point < points; point += 16) {
    const distance = v128.load(distances + point);
    const nearer = i8x16.lt_u(distance, above);
    least = i8x16.min_u(least, v128.or(distance, nearer));
  }
  v128.store(lanes, least);
  let shell = 255;
  for (let lane = 0; lane < 16; lane++) shell = min(shell, <i32>load<u8>(lanes + lane));
  return shell;
}

/** The codes of the pairs of digits of a word of eight, times 16, in bytes. */
// @ts-ignore: decorator
@inline function pairsOf(word: i32): i32 {
  const digits = (word >>> 1) & 0x33333333;
  return ((digits & 0x0f0f0f0f) + 3 * ((digits >>> 4) & 0x0f0f0f0f)) << 4;
}

/** Writes the list of a code whose distances are measured; returns its end. */
function writeList(at: usize, shells: i32, points: i32, eight: bool): usize {
  let to = at + 16;
  let shell = -1;
  for (let s = 0; s < shells; s++) {
    shell = nextShell(shell, points);
    for (let point = 0; point < points; point += 16) {
      let bits = i8x16.bitmask(i8x16.eq(v128.load(distances + point), i8x16.splat(<i8>shell)));
      for (; bits !== 0; bits &= bits - 1) {
        store<u32>(to, load<u32>(words + 4 * (point + ctz(bits))));
        to += 4;
      }
    }
  }
  store<i32>(at, <i32>((to - at) >> 2) - 4);
  for (const last = load<u32>(to - 4); (to & 15) !== 0; to += 4) store<u32>(to, last);
  if (!eight) return to;
  const end = to;
  for (let from = at + 16; from < end; from += 4) {
    store<u32>(to, pairsOf(load<u32>(from)));
    to += 4;
  }
  return to;
}

/** Writes the indices (u16) of the `count` points that are nearest to a code whose distances are measured. */
export function nearestFirst(to: usize, count: i32, points: i32): void {
  let shell = -1;
  for (let found = 0; found < count; ) {
    shell = nextShell(shell, points);
    for (let point = 0; point < points && found < count; point += 16) {
      let bits = i8x16.bitmask(i8x16.eq(v128.load(distances + point), i8x16.splat(<i8>shell)));
      for (; bits !== 0 && found < count; bits &= bits - 1) {
        store<u16>(to + 2 * found, point + ctz(bits));
        found++;
      }
    }
  }
}

/** See `makeTables`. */
export function makeLatticeTables(target: i32, at: usize): void {
  store<usize>(tables + <usize>(target - 16) * sizeof<usize>(), at);
  useTables(target);
  const eight = isEight(target);
  const width = eight ? 8 : 4;
  const radix = eight ? 3 : 8;
  const points = pointsOf(target);
  memory.fill(entries, 0, LISTS - ENTRIES);
  readPoints(target);
  const codes = eight ? 6561 : 4096;
  let next = base + LISTS;
  for (let code = 0; code < codes; code++) {
    if (entryOf(code) !== 0) continue;
    store<i32>(entries + 4 * code, <i32>(next - base));
    measure(code, width, radix, points);
    next = writeList(next, shellsOf(target), points, eight);
  }
}
