import { half, plane, type BlockDecoder } from "./block.js";

/** Trit `n` (−1, 0, 1) of a byte that holds five: the top of byte·3ⁿ. */
function trit(byte: number, n: number): number {
  return ((((byte * 3 ** n) & 255) * 3) >> 8) - 1;
}

export const tq1_0: BlockDecoder = (bytes, at, out, o) => {
  const d = half(bytes, at + 52);
  for (let e = 0; e < 160; e++) out[o + e] = trit(bytes[at + (e & 31)]!, e >> 5) * d;
  for (let e = 0; e < 80; e++) out[o + 160 + e] = trit(bytes[at + 32 + (e & 15)]!, e >> 4) * d;
  for (let e = 0; e < 16; e++) out[o + 240 + e] = trit(bytes[at + 48 + (e & 3)]!, e >> 2) * d;
};

export const tq2_0: BlockDecoder = (bytes, at, out, o) => {
  const d = half(bytes, at + 64);
  for (let e = 0; e < 256; e++) out[o + e] = (plane(bytes, at, e) - 1) * d;
};
