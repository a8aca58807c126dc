import { intAttribute, isMicrosoft } from "./scopes.js";
import type { NodeProto } from "./types.js";

/** How the weight of a MatMulNBits is packed: [N, blocks, blockSize · bits / 8] bytes for N rows of K values. */
export interface NBitsLayout {
  readonly k: number;
  readonly n: number;
  readonly bits: number;
  readonly blockSize: number;
  /** Blocks of a row: ⌈K / blockSize⌉. */
  readonly blocks: number;
}

/** How the table of a GatherBlockQuantized is packed: rows of values in blocks along the last axis. */
export interface TableLayout {
  readonly bits: number;
  readonly blockSize: number;
}

const BITS: ReadonlySet<number> = new Set([2, 4, 8]);
const BLOCK_SIZES: ReadonlySet<number> = new Set([16, 32, 64, 128, 256]);

/** ONNX Runtime's default for both operators. */
const DEFAULT_BITS = 4;
const DEFAULT_TABLE_BLOCK = 128;

function isSize(value: number | undefined): value is number {
  return value !== undefined && Number.isSafeInteger(value) && value > 0;
}

/**
 * The layout that the attributes of a MatMulNBits give.
 *
 * @returns what is wrong with them as a text, when ONNX Runtime would not take them
 */
export function nbitsLayout(node: NodeProto): NBitsLayout | string {
  const k = intAttribute(node, "K");
  const n = intAttribute(node, "N");
  if (!isSize(k) || !isSize(n)) return `has K ${k ?? "missing"} and N ${n ?? "missing"}, expected sizes`;
  const bits = intAttribute(node, "bits", DEFAULT_BITS);
  if (!BITS.has(bits)) return `has ${bits} bits, expected 2, 4 or 8`;
  const blockSize = intAttribute(node, "block_size", NaN);
  if (!BLOCK_SIZES.has(blockSize)) return `has block_size ${blockSize}, expected 16, 32, 64, 128 or 256`;
  return { k, n, bits, blockSize, blocks: Math.ceil(k / blockSize) };
}

/**
 * The layout that the attributes of a GatherBlockQuantized give.
 *
 * @returns what is wrong with them as a text, when ONNX Runtime would not take them
 */
export function tableLayout(node: NodeProto): TableLayout | string {
  const bits = intAttribute(node, "bits", DEFAULT_BITS);
  if (!BITS.has(bits)) return `has ${bits} bits, expected 2, 4 or 8`;
  const blockSize = intAttribute(node, "block_size", DEFAULT_TABLE_BLOCK);
  const isPower = isSize(blockSize) && Number.isInteger(Math.log2(blockSize));
  if (!isPower || blockSize < 16) return `has block_size ${blockSize}, expected a power of two from 16 on`;
  return { bits, blockSize };
}

/** `accuracy_level` of a MatMulNBits; 0 leaves the choice to the runtime, 4 rounds activations to 8 bits. */
export function accuracyLevel(node: NodeProto): number {
  const level = intAttribute(node, "accuracy_level", 0);
  return Number.isNaN(level) ? 0 : level;
}

/** Whether a node is a MatMulNBits of ONNX Runtime. */
export function isNBits(node: NodeProto): boolean {
  return isMicrosoft(node, "MatMulNBits");
}

/** Whether a node is a GatherBlockQuantized of ONNX Runtime. */
export function isTable(node: NodeProto): boolean {
  return isMicrosoft(node, "GatherBlockQuantized");
}
