// What stopped the last conversion: 0 nothing, 1 a value that is not finite, 2 a value or block that the target
// cannot represent.

export const NON_FINITE = 1;
export const OVERFLOW = 2;

export let problem: i32 = 0;

/** Remembers the kind of a problem and returns the index of the value that is to blame. */
export function stop(kind: i32, index: i32): i32 {
  problem = kind;
  return index;
}

export function clearProblem(): void {
  problem = 0;
}
