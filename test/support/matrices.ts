/** Numbers of a normal distribution from a seed. */
export function normals(seed: number, count: number): Float64Array {
  let state = seed >>> 0;
  const uniform = (): number => {
    // mulberry32
    state = (state + 0x6d2b79f5) >>> 0;
    let t = state;
    t = Math.imul(t ^ (t >>> 15), t | 1);
    t ^= t + Math.imul(t ^ (t >>> 7), t | 61);
    return (((t ^ (t >>> 14)) >>> 0) + 0.5) / 2 ** 32;
  };
  return Float64Array.from({ length: count }, () => {
    const radius = Math.sqrt(-2 * Math.log(uniform()));
    return radius * Math.cos(2 * Math.PI * uniform());
  });
}

/**
 * Second moments of `rows` random inputs that have a few directions in common, and whose columns are of sizes that
 * spread over `spread` powers of ten: [columns, columns], in float64.
 */
export function correlatedMoments(
  seed: number,
  columns: number,
  { rows = 2 * columns, rank = 8, spread = 1 }: { rows?: number; rank?: number; spread?: number } = {},
): Float64Array {
  const directions = normals(seed, rank * columns);
  const scales = normals(seed + 1, columns).map((value) => 10 ** (spread * Math.tanh(value)));
  const noise = normals(seed + 2, rows * columns);
  const parts = normals(seed + 3, rows * rank);
  const moments = new Float64Array(columns * columns);
  const x = new Float64Array(columns);
  for (let row = 0; row < rows; row++) {
    for (let column = 0; column < columns; column++) {
      let value = 0.5 * noise[row * columns + column]!;
      for (let k = 0; k < rank; k++) value += parts[row * rank + k]! * directions[k * columns + column]!;
      x[column] = value * scales[column]!;
    }
    for (let i = 0; i < columns; i++) {
      const factor = x[i]! / rows;
      for (let j = 0; j < columns; j++) moments[i * columns + j]! += factor * x[j]!;
    }
  }
  return moments;
}
