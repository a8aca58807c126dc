import { halfToFloat } from "../floats.js";
import { half, nibble, u16, u32, type BlockDecoder } from "./block.js";
import { grid, type GridName } from "./grids.js";

// The IQ1, IQ2 and IQ3 types store groups of eight values as an index into a table of lattice points
// (`grid`), with signs and a scale beside it.

/** All eight signs from a 7-bit code: the eighth makes the number of minus signs even. */
function evenSigns(code: number): number {
  const folded = code ^ (code >> 4);
  return code | (((0x6996 >> (folded & 15)) & 1) << 7);
}

/** Writes `width` elements of a grid point, signed by the bits of `signs` from bit `bit` on. */
function point(
  name: GridName,
  width: number,
  index: number,
  scale: number,
  signs: number,
  bit: number,
  out: Float32Array,
  o: number,
): void {
  const points = grid(name);
  for (let j = 0; j < width; j++) {
    out[o + j] = scale * points[width * index + j]! * ((signs >> (bit + j)) & 1 ? -1 : 1);
  }
}

export const iq2_xxs: BlockDecoder = (bytes, at, out, o) => {
  const d = half(bytes, at);
  for (let ib = 0; ib < 8; ib++) {
    const start = at + 2 + 8 * ib;
    const word = u32(bytes, start + 4);
    const scale = (d * (0.5 + (word >>> 28))) / 4;
    for (let l = 0; l < 4; l++) {
      const signs = evenSigns((word >>> (7 * l)) & 127);
      point("iq2xxs", 8, bytes[start + l]!, scale, signs, 0, out, o + 32 * ib + 8 * l);
    }
  }
};

export const iq2_xs: BlockDecoder = (bytes, at, out, o) => {
  const d = half(bytes, at);
  for (let group = 0; group < 32; group++) {
    const code = u16(bytes, at + 2 + 2 * group);
    const scale = (d * (0.5 + nibble(bytes, at + 66, group >> 1))) / 4;
    point("iq2xs", 8, code & 511, scale, evenSigns(code >> 9), 0, out, o + 8 * group);
  }
};

export const iq2_s: BlockDecoder = (bytes, at, out, o) => {
  const d = half(bytes, at);
  for (let group = 0; group < 32; group++) {
    const high = (bytes[at + 66 + (group >> 2)]! >> (2 * (group & 3))) & 3;
    const scale = (d * (0.5 + nibble(bytes, at + 74, group >> 1))) / 4;
    const index = bytes[at + 2 + group]! | (high << 8);
    point("iq2s", 8, index, scale, bytes[at + 34 + group]!, 0, out, o + 8 * group);
  }
};

export const iq3_xxs: BlockDecoder = (bytes, at, out, o) => {
  const d = half(bytes, at);
  for (let group = 0; group < 32; group++) {
    const word = u32(bytes, at + 66 + 4 * (group >> 2));
    const scale = (d * (0.5 + (word >>> 28))) / 2;
    const signs = evenSigns((word >>> (7 * (group & 3))) & 127);
    for (let side = 0; side < 2; side++) {
      const index = bytes[at + 2 + 2 * group + side]!;
      point("iq3xxs", 4, index, scale, signs, 4 * side, out, o + 8 * group + 4 * side);
    }
  }
};

export const iq3_s: BlockDecoder = (bytes, at, out, o) => {
  const d = half(bytes, at);
  for (let group = 0; group < 32; group++) {
    const scale = d * (1 + 2 * nibble(bytes, at + 106, group >> 2));
    for (let side = 0; side < 2; side++) {
      const entry = 2 * group + side;
      const high = (bytes[at + 66 + (entry >> 3)]! >> (entry & 7)) & 1;
      const index = bytes[at + 2 + entry]! | (high << 8);
      point("iq3s", 4, index, scale, bytes[at + 74 + group]!, 4 * side, out, o + 4 * entry);
    }
  }
};

/** Writes a point of the ternary grid of IQ1, shifted by `delta`. */
function shifted(index: number, scale: number, delta: number, out: Float32Array, o: number): void {
  const points = grid("iq1s");
  for (let j = 0; j < 8; j++) out[o + j] = scale * (points[8 * index + j]! + delta);
}

export const iq1_s: BlockDecoder = (bytes, at, out, o) => {
  const d = half(bytes, at);
  for (let group = 0; group < 32; group++) {
    const high = u16(bytes, at + 34 + 2 * (group >> 2));
    const index = bytes[at + 2 + group]! | (((high >> (3 * (group & 3))) & 7) << 8);
    const scale = d * (2 * ((high >> 12) & 7) + 1);
    shifted(index, scale, high & 0x8000 ? -0.125 : 0.125, out, o + 8 * group);
  }
};

export const iq1_m: BlockDecoder = (bytes, at, out, o) => {
  // The four 16-bit words of scales hold four 3-bit scales each; their top nibbles form the half of the block.
  const scales = at + 48;
  let bits = 0;
  for (let j = 0; j < 4; j++) bits |= (u16(bytes, scales + 2 * j) >> 12) << (4 * j);
  const d = halfToFloat(bits);
  for (let group = 0; group < 32; group++) {
    const code = (u16(bytes, scales + 2 * (group >> 3)) >> (3 * ((group >> 1) & 3))) & 7;
    const high = nibble(bytes, at + 32, group);
    const index = bytes[at + group]! | ((high & 7) << 8);
    shifted(index, d * (2 * code + 1), high & 8 ? -0.125 : 0.125, out, o + 8 * group);
  }
};
