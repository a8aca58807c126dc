// Where to cut the sorted values of a sub-block of IQ1 in three, so that the levels -1, 0 and 1, shifted by
// an eighth, fit them best: every cut is tried.

const { fround } = Math;

/** The three levels, shifted up and shifted down. */
export const shifted: readonly (readonly [number, number, number])[] = [
  [-0.875, 0.125, 1.125],
  [-1.125, -0.125, 0.875],
];

/** How a sub-block is rounded. */
export interface Rounding {
  readonly scale: number;
  /** Bit g: the levels of group g are shifted down. */
  readonly shifts: number;
}

/** A cut of the sorted values: level 0 before `low`, level 2 from `high` on. */
interface Cut extends Rounding {
  readonly low: number;
  readonly high: number;
}

/** Finds the cut of a sub-block whose scale leaves the least weighted squared error; none without weight. */
export type Search = (order: readonly number[], x: Float32Array, weights: Float32Array) => Cut | undefined;

/**
 * Takes candidates in turn and keeps the best by (Σ w·x·level)² / Σ w·level². The comparison is float32 like
 * ggml's, so among nearly equal candidates the order decides.
 */
class Best {
  cut: Cut | undefined;
  #score = -3.4028234663852886e38;

  take(product: number, square: number, low: number, high: number, shifts: number): void {
    if (!(square > 0 && fround(product * product) > fround(this.#score * square))) return;
    const scale = fround(product / square);
    this.#score = fround(scale * product);
    this.cut = { scale, shifts, low, high };
  }
}

/** Float32 sums of the first 0, 1, … terms. */
function runningSums(terms: readonly number[]): Float32Array {
  const sums = new Float32Array(terms.length + 1);
  for (const [i, term] of terms.entries()) sums[i + 1] = sums[i]! + term;
  return sums;
}

function sum(a: number, b: number, c: number): number {
  return fround(fround(a + b) + c);
}

function times(value: number, level: number): number {
  return fround(value * level);
}

/** The cut of 32 values, all of whose levels are shifted alike. */
export const searchTogether: Search = (order, x, weights) => {
  const products = runningSums(order.map((i) => fround(weights[i]! * x[i]!)));
  const squares = runningSums(order.map((i) => weights[i]!));
  const count = order.length;
  const best = new Best();
  for (let low = 0; low <= count; low++) {
    for (let high = low; high <= count; high++) {
      for (const [down, [a, b, c]] of shifted.entries()) {
        const product = sum(
          times(products[low]!, a),
          times(fround(products[high]! - products[low]!), b),
          times(fround(products[count]! - products[high]!), c),
        );
        const square = sum(
          times(times(squares[low]!, a), a),
          times(times(fround(squares[high]! - squares[low]!), b), b),
          times(times(fround(squares[count]! - squares[high]!), c), c),
        );
        best.take(product, square, low, high, down * 15);
      }
    }
  }
  return best.cut;
};

/**
 * Σ w·x·level and Σ w·level² of eight values at the cuts, from running sums over the values in sorted order.
 */
function groupSums(products: Float32Array, squares: Float32Array) {
  const product = products.at(-1)!;
  const square = squares.at(-1)!;
  return (low: number, high: number, down: number): [number, number] => {
    const [a, b, c] = shifted[down]!;
    const first = fround(squares[low]! * (a * a - b * b));
    const second = fround(squares[high]! * (b * b - c * c));
    return [
      fround(fround(product * c) - fround(products[low]! + products[high]!)),
      fround(fround(fround(fround(square * c) * c) + first) + second),
    ];
  };
}

/** The cut of 16 values, whose two groups are shifted each by itself. */
export const searchApart: Search = (order, x, weights) => {
  const [first, second] = [0, 1].map((group) => {
    const own = (i: number): boolean => i >> 3 === group;
    return groupSums(
      runningSums(order.map((i) => (own(i) ? fround(weights[i]! * x[i]!) : 0))),
      runningSums(order.map((i) => (own(i) ? weights[i]! : 0))),
    );
  });
  const best = new Best();
  for (let low = 0; low <= order.length; low++) {
    for (let high = low; high <= order.length; high++) {
      for (const shifts of [0, 2, 1, 3]) {
        const a = first!(low, high, shifts & 1);
        const b = second!(low, high, shifts >> 1);
        best.take(fround(a[0] + b[0]), fround(a[1] + b[1]), low, high, shifts);
      }
    }
  }
  return best.cut;
};
