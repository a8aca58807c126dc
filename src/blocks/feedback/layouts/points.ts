import { half, nibble, u16, u32 } from "../../decode/block.js";
import { grid as pointsOf, type GridName } from "../../decode/grids.js";
import { floatToHalf, halfToFloat } from "../../floats.js";
import {
  iq2_s as kind2S,
  iq2_xs as kind2XS,
  iq2_xxs as kind2XXS,
  iq3_s as kind3S,
  iq3_xxs as kind3XXS,
  type PointKind,
} from "../../search/lattice-kinds.js";
import { iq1_m as kind1M, iq1_s as kind1S } from "../../search/ternary-kinds.js";
import type { Grid } from "../grid.js";
import { halvesOf, type Lattice, type Points } from "../points.js";
import type { Layout } from "./layout.js";

/** Where a point is marked as one whose levels are shifted down: see `makeTernaryPlacer`. */
const DOWN = 2048;

function latticeOf(name: GridName, kind: PointKind, shift?: Points["shift"]): Lattice {
  const { width, signs } = kind;
  const all = pointsOf(name);
  const levels = [...new Set(all)].toSorted((a, b) => a - b);
  const digits = Uint8Array.from(all, (level) => levels.indexOf(level));
  const points: Points = { width, levels, digits, signs, ...(shift ? { shift } : {}) };
  return { ...points, ...halvesOf(points) };
}

/** Finds points by their digits. */
function indexOf({ width, levels, digits }: Lattice): (own: ArrayLike<number>) => number {
  const base = levels.length;
  const table = new Int16Array(base ** width).fill(-1);
  const numberOf = (own: ArrayLike<number>, from: number): number => {
    let number = 0;
    for (let k = width - 1; k >= 0; k--) number = number * base + own[from + k]!;
    return number;
  };
  for (let p = 0; p < digits.length / width; p++) table[numberOf(digits, p * width)] = p;
  return (own) => table[numberOf(own, 0)]!;
}

/**
 * @param unit what a level is in steps of 2·code + 1 times the half of a block
 * @param scaleAt reads the half of a block, and codeAt that of a sub-block
 */
function layout(
  name: GridName,
  kind: PointKind,
  unit: number,
  scaleOf: (block: Uint8Array) => number,
  codeOf: (block: Uint8Array, s: number) => number,
  shiftOf?: (block: Uint8Array, s: number) => number,
): Layout {
  const count = 256 / kind.size;
  const shared = kind.size === 32;
  const lattice = latticeOf(name, kind, shiftOf && { by: 0.125, shared });
  const { width, levels } = lattice;
  const find = indexOf(lattice);
  const digit = new Map(levels.map((level, index) => [level, index]));
  const grid: Grid = {
    values: 256,
    size: kind.size,
    levels: { lowest: levels[0]!, highest: levels.at(-1)! },
    points: lattice,
    scaleCodes: { lowest: unit, highest: (2 * kind.lastCode + 1) * unit },
    leastScale: 0,
    zeroPoints: false,
    nearScales: [],
  };
  return {
    bytes: kind.bytes,
    grid,
    read(block, fields) {
      fields.scale = scaleOf(block);
      fields.offset = 0;
      fields.zero = 0;
      for (let s = 0; s < count; s++) {
        fields.scaleCodes[s] = (2 * codeOf(block, s) + 1) * unit;
        fields.offsetCodes[s] = shiftOf?.(block, s) ?? 0;
      }
    },
    write(fields, block) {
      const signs = new Uint8Array(32);
      const points: number[] = [];
      const own: number[] = Array.from({ length: width }, () => 0);
      for (let from = 0; from < 256; from += width) {
        const down = shiftOf !== undefined && fields.levels[from]! < Math.round(fields.levels[from]!);
        for (let k = 0; k < width; k++) {
          const level = fields.levels[from + k]!;
          if (shiftOf !== undefined) own[k] = digit.get(Math.round(level))!;
          else own[k] = digit.get(Math.abs(level))!;
          if (level < 0) signs[(from + k) >> 3]! |= 1 << ((from + k) & 7);
        }
        points.push(find(own) | (down ? DOWN : 0));
      }
      const codes = Array.from(fields.scaleCodes.subarray(0, count), (code) => (code / unit - 1) / 2);
      block.fill(0);
      kind.store(block, { half: floatToHalf(fields.scale), codes, points }, signs);
    },
  };
}

const first = (block: Uint8Array): number => half(block, 0);

export const iq2_xxs = layout("iq2xxs", kind2XXS, 1 / 8, first, (block, s) => u32(block, 6 + 8 * s) >>> 28);
export const iq2_xs = layout("iq2xs", kind2XS, 1 / 8, first, (block, s) => nibble(block, 66, s));
export const iq2_s = layout("iq2s", kind2S, 1 / 8, first, (block, s) => nibble(block, 74, s));
export const iq3_xxs = layout("iq3xxs", kind3XXS, 1 / 4, first, (block, s) => u32(block, 66 + 4 * s) >>> 28);
export const iq3_s = layout("iq3s", kind3S, 1, first, (block, s) => nibble(block, 106, s));
export const iq1_s = layout(
  "iq1s",
  kind1S,
  1,
  first,
  (block, s) => (u16(block, 34 + 2 * s) >> 12) & 7,
  (block, s) => (u16(block, 34 + 2 * s) & 0x8000 ? -1 : 1),
);
export const iq1_m = layout(
  "iq1s",
  kind1M,
  1,
  (block) => {
    let bits = 0;
    for (let j = 0; j < 4; j++) bits |= (u16(block, 48 + 2 * j) >> 12) << (4 * j);
    return halfToFloat(bits);
  },
  (block, s) => (u16(block, 48 + 2 * (s >> 2)) >> (3 * (s & 3))) & 7,
  () => 1,
);
