/**
 * Half (IEEE binary16) and bfloat16 numbers as 16-bit patterns, bit for bit as ggml converts them: round to
 * nearest even with subnormals, every NaN becomes quiet. Bytes are little-endian, like every file here.
 */

const word = new Uint32Array(1);
const number = new Float32Array(word.buffer);

/** Bit pattern of a number rounded to float32. */
function bitsOf(value: number): number {
  number[0] = value;
  return word[0]!;
}

/** Float32 bit pattern of a half. */
function halfToBits(half: number): number {
  const sign = (half & 0x8000) << 16;
  const exponent = (half >>> 10) & 31;
  const fraction = half & 0x3ff;
  if (exponent === 31) return (sign | 0x7f800000 | (fraction << 13) | (fraction === 0 ? 0 : 0x400000)) >>> 0;
  if (exponent !== 0) return (sign | ((exponent + 112) << 23) | (fraction << 13)) >>> 0;
  if (fraction === 0) return sign >>> 0;
  // A subnormal half is a normal float: the leading one moves to the hidden place.
  const shift = Math.clz32(fraction) - 21;
  return (sign | ((113 - shift) << 23) | (((fraction << shift) & 0x3ff) << 13)) >>> 0;
}

/** Half pattern nearest to a float32 pattern; finite values from 65520 on become infinite. */
function bitsToHalf(bits: number): number {
  const sign = (bits >>> 16) & 0x8000;
  const magnitude = bits & 0x7fffffff;
  if (magnitude > 0x7f800000) return sign | 0x7e00;
  if (magnitude >= 0x477ff000) return sign | 0x7c00;
  if (magnitude < 0x33000000) return sign;
  if (magnitude >= 0x38800000) {
    const rebased = magnitude - 0x38000000;
    return sign | ((rebased + 0xfff + ((rebased >>> 13) & 1)) >>> 13);
  }
  const shift = 126 - (magnitude >>> 23);
  const fraction = (magnitude & 0x7fffff) | 0x800000;
  const half = fraction >>> shift;
  const rest = fraction & ((1 << shift) - 1);
  const tie = 1 << (shift - 1);
  return sign | (half + (rest > tie || (rest === tie && (half & 1) === 1) ? 1 : 0));
}

function bitsToBfloat(bits: number): number {
  if ((bits & 0x7fffffff) > 0x7f800000) return (bits >>> 16) | 64;
  return ((bits + 0x7fff + ((bits >>> 16) & 1)) >>> 16) & 0xffff;
}

/** Value of a half. */
export function halfToFloat(half: number): number {
  word[0] = halfToBits(half);
  return number[0]!;
}

/** Half nearest to a value, which is rounded to float32 first. */
export function floatToHalf(value: number): number {
  return bitsToHalf(bitsOf(value));
}

/** Value of a bfloat16. */
export function bfloatToFloat(bfloat: number): number {
  word[0] = bfloat << 16;
  return number[0]!;
}

/** Bfloat16 nearest to a value, which is rounded to float32 first. */
export function floatToBfloat(value: number): number {
  return bitsToBfloat(bitsOf(value));
}

// Whole arrays move as bit patterns, never as numbers: a NaN keeps its payload on the way.

function bitsView(values: Float32Array): Uint32Array {
  return new Uint32Array(values.buffer, values.byteOffset, values.length);
}

function widen(bytes: Uint8Array, out: Float32Array, convert: (bits: number) => number): void {
  const bits = bitsView(out);
  for (let i = 0; i < bits.length; i++) {
    bits[i] = convert(bytes[2 * i]! | (bytes[2 * i + 1]! << 8));
  }
}

function narrow(values: Float32Array, out: Uint8Array, convert: (bits: number) => number): void {
  const bits = bitsView(values);
  for (let i = 0; i < bits.length; i++) {
    const short = convert(bits[i]!);
    out[2 * i] = short;
    out[2 * i + 1] = short >>> 8;
  }
}

/** Widens `out.length` halves. */
export function halvesToFloats(bytes: Uint8Array, out: Float32Array): void {
  widen(bytes, out, halfToBits);
}

/** Widens `out.length` bfloat16 values. */
export function bfloatsToFloats(bytes: Uint8Array, out: Float32Array): void {
  const bits = bitsView(out);
  // Bytes of a GGUF may begin anywhere in a buffer, and a view of words only at an even place.
  if (bytes.byteOffset % 2 !== 0) {
    widen(bytes, out, (short) => short << 16);
    return;
  }
  const shorts = new Uint16Array(bytes.buffer, bytes.byteOffset, bits.length);
  for (let i = 0; i < bits.length; i++) bits[i] = shorts[i]! << 16;
}

/** Rounds every value to a half. */
export function floatsToHalves(values: Float32Array, out: Uint8Array): void {
  narrow(values, out, bitsToHalf);
}

/** Rounds every value to a bfloat16. */
export function floatsToBfloats(values: Float32Array, out: Uint8Array): void {
  narrow(values, out, bitsToBfloat);
}
