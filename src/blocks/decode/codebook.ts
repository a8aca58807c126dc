import { half, nibble, u16, type BlockDecoder } from "./block.js";

/** The 16 uneven levels of IQ4_NL and IQ4_XS. */
export const iq4Levels: readonly number[] = [
  -127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113,
];

/** The values of a 4-bit float with two exponent bits and one fraction bit (E2M1), doubled. */
export const e2m1Levels = [0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12];

/** Looks up 2·`count` nibbles: the low ones come first, then the high ones. */
function lookUp(
  levels: readonly number[],
  scale: number,
  bytes: Uint8Array,
  at: number,
  count: number,
  out: Float32Array,
  o: number,
): void {
  for (let j = 0; j < count; j++) {
    const q = bytes[at + j]!;
    out[o + j] = levels[q & 15]! * scale;
    out[o + count + j] = levels[q >> 4]! * scale;
  }
}

export const iq4_nl: BlockDecoder = (bytes, at, out, o) => {
  lookUp(iq4Levels, half(bytes, at), bytes, at + 2, 16, out, o);
};

export const iq4_xs: BlockDecoder = (bytes, at, out, o) => {
  const d = half(bytes, at);
  const high = u16(bytes, at + 2);
  for (let s = 0; s < 8; s++) {
    const scale = nibble(bytes, at + 4, s) | (((high >> (2 * s)) & 3) << 4);
    lookUp(iq4Levels, d * (scale - 32), bytes, at + 8 + 16 * s, 16, out, o + 32 * s);
  }
};

export const mxfp4: BlockDecoder = (bytes, at, out, o) => {
  lookUp(e2m1Levels, 2 ** (bytes[at]! - 128), bytes, at + 1, 16, out, o);
};

/** An unsigned 8-bit float with four exponent bits (bias 7) and three fraction bits; 0x7f would be NaN. */
export function ue4m3(code: number): number {
  if (code === 0 || code === 0x7f) return 0;
  const exponent = (code >> 3) & 15;
  const fraction = code & 7;
  return exponent === 0 ? fraction * 2 ** -9 : (1 + fraction / 8) * 2 ** (exponent - 7);
}

export const nvfp4: BlockDecoder = (bytes, at, out, o) => {
  for (let s = 0; s < 4; s++) {
    lookUp(e2m1Levels, ue4m3(bytes[at + s]!) / 2, bytes, at + 4 + 8 * s, 8, out, o + 16 * s);
  }
};
