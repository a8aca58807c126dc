import { halfToFloat } from "../floats.js";

/**
 * Unpacks the block at byte `at` of `bytes` into `out` from index `o` on.
 *
 * Products are taken in double precision and rounded once, on the store. That gives ggml's float32 results bit
 * for bit: a half (11 bits) times the scale and level of any block type fits 24 bits exactly, and a sum of two
 * float32 numbers rounded through double rounds like the float32 sum.
 */
export type BlockDecoder = (bytes: Uint8Array, at: number, out: Float32Array, o: number) => void;

export function u16(bytes: Uint8Array, at: number): number {
  return bytes[at]! | (bytes[at + 1]! << 8);
}

export function u32(bytes: Uint8Array, at: number): number {
  return (u16(bytes, at) | (u16(bytes, at + 2) << 16)) >>> 0;
}

export function i8(bytes: Uint8Array, at: number): number {
  return (bytes[at]! << 24) >> 24;
}

/** The half at a byte offset. */
export function half(bytes: Uint8Array, at: number): number {
  return halfToFloat(u16(bytes, at));
}

/** Nibble `index` of a run of bytes, low nibble first. */
export function nibble(bytes: Uint8Array, at: number, index: number): number {
  return (bytes[at + (index >> 1)]! >> (4 * (index & 1))) & 15;
}

/**
 * Two bits of element `e`, stored as planes: for each half of 128 elements, one byte holds the elements that
 * are 32 apart.
 */
export function plane(bytes: Uint8Array, at: number, e: number): number {
  return (bytes[at + 32 * (e >> 7) + (e & 31)]! >> (2 * ((e >> 5) & 3))) & 3;
}
