/**
 * Rows of values, each times the factor of its column and the factor of its row, in plain TypeScript: what the
 * kernel is held to. The two factors are multiplied first, in single precision, as all is.
 *
 * @param values [rows, row]
 * @param columns [row]; ones when left out
 * @param scales [rows]; ones when left out
 */
export function multiplyRows(
  values: Float32Array,
  row: number,
  columns?: Float32Array,
  scales?: Float32Array,
): Float32Array {
  return values.map((value, index) => {
    const own = scales?.[Math.floor(index / row)] ?? 1;
    return value * Math.fround(own * (columns?.[index % row] ?? 1));
  });
}
