import { grid, type GridName } from "../../decode/grids.js";

/**
 * The points of a grid in the search's own measure: element k of a point is an odd step, 2·digit + 1, and the
 * digits in base `base`, the first the least, are the point's code. (Decoders know other values for the digits;
 * the search does not look at them.)
 */
export interface Lattice {
  /** Elements of a point. */
  readonly width: number;
  readonly base: number;
  /** Steps of all points, one after another. */
  readonly steps: Uint8Array;
  /** Index of the point with a code, or −1. */
  indexOf(code: number): number;
  /** Points around a code that has none, nearest first, and among equally near ones the lower index first. */
  neighbours(code: number): readonly number[];
  /** So many points around any code, in the same order. */
  nearestPoints(code: number, count: number): readonly number[];
}

/**
 * @param shells how many different distances the neighbours of a code may have
 */
function makeLattice(name: GridName, width: number, base: number, shells: number): Lattice {
  const values = grid(name);
  const digits = [...new Set(values)].toSorted((a, b) => a - b);
  const steps = Uint8Array.from(values, (value) => 2 * digits.indexOf(value) + 1);
  const points = steps.length / width;
  const indices = new Int16Array(base ** width).fill(-1);
  for (let point = 0; point < points; point++) {
    let code = 0;
    for (let k = width - 1; k >= 0; k--) code = code * base + ((steps[point * width + k]! - 1) >> 1);
    indices[code] = point;
  }

  const target = new Uint8Array(width);
  const distances = new Uint16Array(points);

  /** Points in the order of their distances from a code, as many as have one of the least different distances. */
  function findNeighbours(code: number, most: number): number[] {
    for (let k = 0, rest = code; k < width; k++) {
      target[k] = 2 * (rest % base) + 1;
      rest = Math.floor(rest / base);
    }
    for (let point = 0, at = 0; point < points; point++) {
      let distance = 0;
      for (let k = 0; k < width; k++) {
        const difference = steps[at++]! - target[k]!;
        distance += difference * difference;
      }
      distances[point] = distance;
    }
    const nearest = [...new Set(distances)].toSorted((a, b) => a - b).slice(0, most);
    const list: number[] = [];
    for (const shell of nearest) {
      for (let point = 0; point < points; point++) if (distances[point] === shell) list.push(point);
    }
    return list;
  }

  const found = new Map<number, readonly number[]>();
  const around = new Map<number, readonly number[]>();
  return {
    width,
    base,
    steps,
    indexOf: (code) => indices[code]!,
    neighbours(code) {
      let list = found.get(code);
      if (list === undefined) {
        list = findNeighbours(code, shells);
        found.set(code, list);
      }
      return list;
    },
    nearestPoints(code, count) {
      let list = around.get(code);
      if (list === undefined || list.length !== count) {
        list = findNeighbours(code, count).slice(0, count);
        around.set(code, list);
      }
      return list;
    },
  };
}

/** Width, base and shells of each. */
const recipes = {
  iq2xxs: [8, 3, 2],
  iq2xs: [8, 3, 2],
  iq2s: [8, 3, 1],
  iq3xxs: [4, 8, 2],
  iq3s: [4, 8, 3],
} as const;

const made = new Map<GridName, Lattice>();

/** A grid as the search sees it; made on first use. */
export function lattice(name: keyof typeof recipes): Lattice {
  let one = made.get(name);
  if (one === undefined) {
    const [width, base, shells] = recipes[name];
    one = makeLattice(name, width, base, shells);
    made.set(name, one);
  }
  return one;
}
