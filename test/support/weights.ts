import * as fc from "fast-check";

/** Random numbers from a seed (a linear congruential generator: short, and the same everywhere). */
export function randomFrom(seed: number): () => number {
  let state = seed >>> 0;
  return () => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    return (state + 0.5) / 2 ** 32;
  };
}

type Fill = (random: () => number, index: number) => number;

function normal(random: () => number): number {
  return Math.sqrt(-2 * Math.log(random())) * Math.cos(2 * Math.PI * random());
}

const float = new Float32Array(1);
const bits = new Uint32Array(float.buffer);

/** Rows that encoders stumble over; each is scaled by a power of two afterwards. */
const fills: Readonly<Record<string, Fill>> = {
  normal,
  constant: () => 0.7,
  zero: () => 0,
  "negative zero": () => -0,
  "mixed zeros": (random) => (random() < 0.5 ? -0 : 0),
  alternating: (_, index) => (index % 2 === 0 ? 1 : -1),
  "one value": (_, index) => (index % 64 === 40 ? -3 : 0),
  outliers: (random) => normal(random) * (random() < 0.02 ? 1000 : 1),
  "halves of levels": (random, index) => (index % 32 === 7 ? 127 : Math.round((random() - 0.5) * 500) / 2),
  "eighths of levels": (random, index) => (index % 16 === 3 ? -8 : Math.round((random() - 0.5) * 128) / 8),
  "both signs as large": (random) => Math.sign(random() - 0.5) * (random() < 0.3 ? 1 : random()),
  "nearly as large": (random) => Math.sign(random() - 0.5) * (1 - random() * 0.06),
  "any exponent": (random) => Math.sign(random() - 0.5) * 2 ** ((random() - 0.5) * 60),
  "mostly subnormal": (random) => {
    bits[0] = Math.floor(random() * 2 ** 24) | (random() < 0.5 ? 2 ** 31 : 0);
    return float[0] ?? 0;
  },
};

/** A row of finite float32 values: one of the fills on every 32 values, all scaled by one power of two. */
export function weights(count: number, exponents: { min: number; max: number }): fc.Arbitrary<Float32Array> {
  return fc
    .record({
      seed: fc.nat(),
      names: fc.array(fc.constantFrom(...Object.keys(fills)), { minLength: 1, maxLength: 4 }),
      exponent: fc.oneof({ weight: 2, arbitrary: fc.constant(-6) }, fc.integer(exponents)),
    })
    .map(({ seed, names, exponent }) => {
      const random = randomFrom(seed);
      return Float32Array.from({ length: count }, (_, index) => {
        const fill = fills[names[(index >> 5) % names.length] ?? "zero"] ?? normal;
        const value = Math.fround(fill(random, index) * 2 ** exponent);
        return Number.isFinite(value) ? value : 0;
      });
    });
}

/** Index of the first byte that differs, or −1 for equal arrays. */
export function firstDifference(a: Uint8Array, b: Uint8Array): number {
  if (a.length !== b.length) return Math.min(a.length, b.length);
  return a.findIndex((byte, index) => byte !== b[index]);
}

/** The values with zero in the place of those beyond a limit, which is the largest half. */
export function withinHalf(values: Float32Array, limit = 65504): Float32Array {
  return values.map((value) => (Math.abs(value) > limit ? 0 : value));
}

const importanceFills: Readonly<Record<string, Fill>> = {
  even: () => 1,
  "mean squares": (random) => normal(random) ** 2 * 0.3,
  "few matter": (random) => (random() < 0.05 ? 900 : 0.001),
  "some never used": (random) => (random() < 0.3 ? 0 : random()),
  none: () => 0,
  wide: (random) => 2 ** ((random() - 0.5) * 40),
};

/** An importance of `count` columns, not negative: one of the fills on every 32. */
export function importances(count: number): fc.Arbitrary<Float32Array> {
  return fc
    .record({
      seed: fc.nat(),
      names: fc.array(fc.constantFrom(...Object.keys(importanceFills)), { minLength: 1, maxLength: 4 }),
    })
    .map(({ seed, names }) => {
      const random = randomFrom(seed);
      return Float32Array.from({ length: count }, (_, index) =>
        (importanceFills[names[(index >> 5) % names.length] ?? "even"] ?? normal)(random, index),
      );
    });
}
