import type { FeedbackInput, FeedbackOutput, FeedbackTarget } from "../../../src/blocks/feedback/problem.js";
import { decode } from "../../../src/blocks/decode/decode.js";
import { decodeNBits } from "../../../src/blocks/nbits/decode.js";
import { packCodes } from "../../../src/blocks/nbits/pack.js";
import { nbitsRow } from "../../../src/blocks/nbits/types.js";
import { randomFrom } from "../../support/weights.js";

export function normals(count: number, seed: number, scale = 1): Float32Array {
  const random = randomFrom(seed);
  return Float32Array.from(
    { length: count },
    () => scale * Math.sqrt(-2 * Math.log(random())) * Math.cos(2 * Math.PI * random()),
  );
}

/** Moments of correlated columns: a few common causes, neighbours alike, and sizes that differ. */
export function moments(count: number, seed: number): Float64Array {
  const causes = Math.max(2, count >> 3);
  const mix = normals(causes * count, seed);
  const sizes = normals(count, seed + 1).map((x) => Math.exp(0.7 * x));
  const out = new Float64Array(count * count);
  for (let i = 0; i < count; i++) {
    for (let j = 0; j < count; j++) {
      let common = 0.6 ** Math.abs(i - j) + (i === j ? 0.3 : 0);
      for (let c = 0; c < causes; c++) common += (mix[c * count + i]! * mix[c * count + j]!) / causes;
      out[i * count + j] = common * sizes[i]! * sizes[j]!;
    }
  }
  return out;
}

/** H = A·D·Aᵀ with A unit upper triangular, the last column first. */
export function factorise(
  moments: Float64Array,
  count: number,
): { factor: Float32Array; pivots: Float32Array } {
  const rest = moments.slice();
  const factor = new Float32Array(count * count);
  const pivots = new Float32Array(count);
  for (let k = count - 1; k >= 0; k--) {
    const pivot = rest[k * count + k]!;
    pivots[k] = pivot;
    for (let i = 0; i <= k; i++) factor[i * count + k] = rest[i * count + k]! / pivot;
    for (let i = 0; i < k; i++) {
      for (let j = 0; j < k; j++) {
        rest[i * count + j]! -= (rest[i * count + k]! * rest[j * count + k]!) / pivot;
      }
    }
  }
  return { factor, pivots };
}

/** A whole matrix as one panel: rows of normal values, correlated columns and, where asked for, rows. */
export function problem(rows: number, width: number, seed: number, plain = false): FeedbackInput {
  const { factor, pivots } = factorise(moments(width, seed), width);
  const across = factorise(moments(rows, seed + 7), rows);
  if (plain) for (let i = 0; i < width; i++) factor.fill(0, i * width + i + 1, (i + 1) * width);
  return {
    values: normals(rows * width, seed + 3, 0.02),
    carried: new Float32Array(rows * width),
    added: new Float32Array(rows * width),
    factor,
    pivots,
    rowFactor: across.factor,
  };
}

/** Values that a decoder gives for an output. */
export function decoded(target: FeedbackTarget, width: number, out: FeedbackOutput): Float32Array {
  const values = new Float32Array(out.stored.length);
  if (typeof target === "string") {
    decode(target, out.blocks, values);
    return values;
  }
  const rows = out.stored.length / width;
  const sizes = nbitsRow(target, width);
  const zeroPoints = new Uint8Array(rows * sizes.zeroPoints);
  const blocks = width / target.block;
  for (let r = 0; r < rows && target.zeroPoints; r++) {
    packCodes(
      out.zeroPoints.subarray(r * blocks, (r + 1) * blocks),
      target.bits,
      zeroPoints.subarray(r * sizes.zeroPoints, (r + 1) * sizes.zeroPoints),
    );
  }
  decodeNBits(target, width, { codes: out.blocks, scales: out.scales, zeroPoints }, values);
  return values;
}

/** Σ D_j·V_ij² in double precision from the errors themselves, with or without the factor of the rows. */
export function lossOf(input: FeedbackInput, width: number, stored: Float32Array, byRows: boolean): number {
  const rows = stored.length / width;
  const errors = new Float64Array(rows * width);
  for (let i = 0; i < rows; i++) {
    for (let j = 0; j < width; j++) {
      let sum = 0;
      for (let k = 0; k <= j; k++) {
        sum += (input.values[i * width + k]! - stored[i * width + k]!) * input.factor[k * width + j]!;
      }
      errors[i * width + j] = sum + input.carried[i * width + j]!;
    }
  }
  let loss = 0;
  for (let i = 0; i < rows; i++) {
    const group = byRows ? i - (i % 4) : 0;
    for (let j = 0; j < width; j++) {
      let miss = errors[i * width + j]! + input.added[i * width + j]!;
      for (let r = 0; r < group; r++) miss += input.rowFactor[r * rows + i]! * errors[r * width + j]!;
      loss += input.pivots[j]! * miss * miss;
    }
  }
  return loss;
}
