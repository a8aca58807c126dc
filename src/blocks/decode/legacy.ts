import { half, i8, u32, type BlockDecoder } from "./block.js";

/** One scale and an optional offset for 32 values: nibbles in the order 0–15 low, 16–31 high. */
function nibbles(
  offset: number,
  values: (q: number, d: number, m: number) => number,
  header: number,
): BlockDecoder {
  return (bytes, at, out, o) => {
    const d = half(bytes, at);
    const m = offset === 0 ? 0 : half(bytes, at + offset);
    for (let j = 0; j < 16; j++) {
      const q = bytes[at + header + j]!;
      out[o + j] = values(q & 15, d, m);
      out[o + j + 16] = values(q >> 4, d, m);
    }
  };
}

/** As `nibbles`, with a fifth bit for every value in the four bytes before the nibbles. */
function fives(
  offset: number,
  values: (q: number, d: number, m: number) => number,
  header: number,
): BlockDecoder {
  return (bytes, at, out, o) => {
    const d = half(bytes, at);
    const m = offset === 0 ? 0 : half(bytes, at + offset);
    const high = u32(bytes, at + header - 4);
    for (let j = 0; j < 16; j++) {
      const q = bytes[at + header + j]!;
      out[o + j] = values((q & 15) | (((high >>> j) & 1) << 4), d, m);
      out[o + j + 16] = values((q >> 4) | (((high >>> (j + 16)) & 1) << 4), d, m);
    }
  };
}

export const q4_0 = nibbles(0, (q, d) => (q - 8) * d, 2);
export const q4_1 = nibbles(2, (q, d, m) => q * d + m, 4);
export const q5_0 = fives(0, (q, d) => (q - 16) * d, 6);
export const q5_1 = fives(2, (q, d, m) => q * d + m, 8);

export const q8_0: BlockDecoder = (bytes, at, out, o) => {
  const d = half(bytes, at);
  for (let j = 0; j < 32; j++) out[o + j] = i8(bytes, at + 2 + j) * d;
};

export const q1_0: BlockDecoder = (bytes, at, out, o) => {
  const d = half(bytes, at);
  for (let j = 0; j < 128; j++) out[o + j] = (bytes[at + 2 + (j >> 3)]! >> (j & 7)) & 1 ? d : -d;
};

export const q2_0: BlockDecoder = (bytes, at, out, o) => {
  const d = half(bytes, at);
  for (let j = 0; j < 64; j++) {
    out[o + j] = (((bytes[at + 2 + (j >> 2)]! >> (2 * (j & 3))) & 3) - 1) * d;
  }
};
