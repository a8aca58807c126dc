import { grid } from "../decode/grids.js";

// The IQ1 types store eight ternary digits (levels 0, 1 and 2) as the index of a lattice point. Only 2048 of the
// 6561 vectors are points; for the others a search looks through the points around them.

/** Distances of points that count as around a vector: the three smallest that occur. */
const SHELLS = 3;

/** A vector of digits as a number in base 3, the first digit the least significant. */
export function vectorCode(digits: ArrayLike<number>, o: number): number {
  let code = 0;
  for (let j = 7; j >= 0; j--) code = 3 * code + digits[o + j]!;
  return code;
}

const byCode = new Map<number, number>();
const around = new Map<number, readonly number[]>();

/** Index of the point with a vector's digits, or undefined where there is none. */
export function pointAt(code: number): number | undefined {
  if (byCode.size === 0) {
    const digits = grid("iq1s").map((value) => value + 1);
    for (let point = 0; point < digits.length / 8; point++) byCode.set(vectorCode(digits, 8 * point), point);
  }
  return byCode.get(code);
}

function search(code: number): number[] {
  const points = grid("iq1s");
  const shells = new Map<number, number[]>();
  for (let point = 0; point < points.length / 8; point++) {
    let distance = 0;
    for (let j = 0, rest = code; j < 8; j++) {
      distance += (points[8 * point + j]! + 1 - (rest % 3)) ** 2;
      rest = Math.floor(rest / 3);
    }
    const shell = shells.get(distance);
    if (shell === undefined) shells.set(distance, [point]);
    else shell.push(point);
  }
  const nearest = [...shells.keys()].toSorted((a, b) => a - b).slice(0, SHELLS);
  return nearest.flatMap((distance) => shells.get(distance) ?? []);
}

/** Points around a vector that is none: by distance, and by index where that is equal. */
export function pointsAround(code: number): readonly number[] {
  let points = around.get(code);
  if (points === undefined) {
    points = search(code);
    around.set(code, points);
  }
  return points;
}
