import { half, i8, plane, type BlockDecoder } from "./block.js";

export const q2_k: BlockDecoder = (bytes, at, out, o) => {
  const d = half(bytes, at + 80);
  const min = half(bytes, at + 82);
  for (let e = 0; e < 256; e++) {
    const scale = bytes[at + (e >> 4)]!;
    out[o + e] = d * (scale & 15) * plane(bytes, at + 16, e) - min * (scale >> 4);
  }
};

export const q3_k: BlockDecoder = (bytes, at, out, o) => {
  const d = half(bytes, at + 108);
  const scales = at + 96;
  for (let s = 0; s < 16; s++) {
    const low = (bytes[scales + (s & 7)]! >> (4 * (s >> 3))) & 15;
    const scale = (low | (((bytes[scales + 8 + (s & 3)]! >> (2 * (s >> 2))) & 3) << 4)) - 32;
    for (let e = 16 * s; e < 16 * s + 16; e++) {
      const high = (bytes[at + (e & 31)]! >> (e >> 5)) & 1;
      out[o + e] = d * scale * (plane(bytes, at + 32, e) - (high ? 0 : 4));
    }
  }
};

/** Q4_K and Q5_K: eight 6-bit pairs of scale and minimum, nibbles, and for Q5_K a plane of fifth bits at `high`. */
function pairs(high: number, low: number): BlockDecoder {
  return (bytes, at, out, o) => {
    const d = half(bytes, at);
    const dmin = half(bytes, at + 2);
    const b = at + 4;
    for (let s = 0; s < 8; s++) {
      const scale = s < 4 ? bytes[b + s]! & 63 : (bytes[b + s + 4]! & 15) | ((bytes[b + s - 4]! >> 6) << 4);
      const min = s < 4 ? bytes[b + s + 4]! & 63 : (bytes[b + s + 4]! >> 4) | ((bytes[b + s]! >> 6) << 4);
      for (let l = 0; l < 32; l++) {
        const q = (bytes[at + low + 32 * (s >> 1) + l]! >> (4 * (s & 1))) & 15;
        const fifth = high === 0 ? 0 : ((bytes[at + high + l]! >> s) & 1) << 4;
        out[o + 32 * s + l] = d * scale * (q | fifth) - dmin * min;
      }
    }
  };
}

export const q4_k = pairs(0, 16);
export const q5_k = pairs(16, 48);

export const q6_k: BlockDecoder = (bytes, at, out, o) => {
  const d = half(bytes, at + 208);
  for (let e = 0; e < 256; e++) {
    const h = e >> 7;
    const group = (e >> 5) & 3;
    const l = e & 31;
    const low = (bytes[at + 64 * h + l + 32 * (group & 1)]! >> (4 * (group >> 1))) & 15;
    const high = (bytes[at + 128 + 32 * h + l]! >> (2 * group)) & 3;
    out[o + e] = d * i8(bytes, at + 192 + (e >> 4)) * ((low | (high << 4)) - 32);
  }
};
