/** What is added to a float32 to leave its nearest integer (ties to even) in the low bits. */
export const MAGIC: f32 = 12582912;

/** Nearest integer, ties to even, of a number within 2^22; beyond, what the low bits of its sum hold. */
// @ts-ignore: decorator
@inline export function nearestInteger(value: f32): i32 {
  return (reinterpret<i32>(value + MAGIC) & 0x7fffff) - 0x400000;
}
