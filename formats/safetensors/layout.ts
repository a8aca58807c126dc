import { MAX_NAME_LENGTH } from "./limits.js";
import { DTYPE_BITS, type Dtype } from "./types.js";

/** Where the JSON header starts, behind its length as a u64. */
export const PREFIX_BYTES = 8;

/** The one key of a header that is no tensor. */
export const METADATA_KEY = "__metadata__";

export function isDtype(value: unknown): value is Dtype {
  return typeof value === "string" && Object.hasOwn(DTYPE_BITS, value);
}

/** A whole number from 0 to 2^53 - 1. */
export function isCount(value: unknown): value is number {
  return Number.isSafeInteger(value) && (value as number) >= 0 && !Object.is(value, -0);
}

/**
 * Bytes of a tensor.
 *
 * @returns a fraction when values narrower than a byte do not fill the last one, undefined when a product
 *   on the way passes 2^53 (before a dimension of 0 or not, like the Rust library's checked multiplication)
 */
export function tensorBytes(dtype: Dtype, shape: readonly number[]): number | undefined {
  let bits: number = DTYPE_BITS[dtype];
  for (const size of shape) {
    bits *= size;
    if (!Number.isSafeInteger(bits)) return undefined;
  }
  return bits / 8;
}

/** What is wrong with a name of a tensor, if anything. */
export function nameObjection(name: string): string | undefined {
  if (name.length > MAX_NAME_LENGTH) return `is longer than ${MAX_NAME_LENGTH} characters`;
  // Halves of a surrogate pair have no UTF-8.
  if (/\p{Cs}/u.test(name)) return "is not well-formed Unicode";
  return undefined;
}
