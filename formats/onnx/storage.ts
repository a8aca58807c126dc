import { elementCount, type ElementTypeName, elementTypeById } from "./element-types.js";
import { accuracyLevel, isNBits, isTable, nbitsLayout, tableLayout } from "./quantized.js";
import { type Constant, intAttribute, isMicrosoft, originOf, type Scope, scopesOf } from "./scopes.js";
import type { OnnxTensor } from "./tensors.js";
import type { ModelProto, NodeProto, TensorProto } from "./types.js";

/** Weights that are stored in the same way. */
export interface StoredWeights {
  /** Such as `MatMulNBits 4-bit block 32`, or the element type of plain tensors. */
  readonly storage: string;
  /** Without scales and zero points. */
  readonly tensors: number;
  readonly values: number;
  /** Scales and zero points included. */
  readonly bytes: number;
  /** Whether the values are weights; numbers that say where and how much are not. */
  readonly weights: boolean;
}

/** Element types of plain tensors that hold positions, sizes and texts. */
const NO_WEIGHTS: ReadonlySet<string> = new Set<ElementTypeName>([
  "INT64",
  "UINT64",
  "INT32",
  "UINT32",
  "INT16",
  "UINT16",
  "BOOL",
  "STRING",
]);

/** What a node says of a tensor; a tensor of scales has no values of its own. */
interface Claim {
  readonly storage: string;
  readonly values: number;
  readonly part: boolean;
}

/** Bits of a packed tensor's data: that of its elements, all of them. */
function storedBits({ dataType, dims }: TensorProto): number {
  return (elementTypeById(dataType)?.bits ?? 0) * elementCount(dims, "Tensor");
}

/** The first node that reads a tensor says what it is: tied weights count once. */
class Claims {
  readonly #claims = new Map<string, Claim>();

  get(path: string): Claim | undefined {
    return this.#claims.get(path);
  }

  weight(constant: Constant | undefined, storage: string, values: (tensor: TensorProto) => number): boolean {
    if (constant === undefined) return false;
    const count = values(constant.tensor);
    if (!Number.isSafeInteger(count)) return false;
    this.#put(constant.path, { storage, values: count, part: false });
    return true;
  }

  /** Scales, zero points and the like. */
  parts(scope: Scope, names: readonly (string | undefined)[], storage: string): void {
    for (const name of names) {
      const constant = name === undefined ? undefined : originOf(scope, name);
      if (constant !== undefined) this.#put(constant.path, { storage, values: 0, part: true });
    }
  }

  #put(path: string, claim: Claim): void {
    if (!this.#claims.has(path)) this.#claims.set(path, claim);
  }
}

function claimNBits(scope: Scope, node: NodeProto, claims: Claims): void {
  const layout = nbitsLayout(node);
  if (typeof layout === "string") return;
  const { k, bits, blockSize, blocks } = layout;
  const storage = `MatMulNBits ${bits}-bit block ${blockSize}`;
  const [, weight = "", scales, zeroPoints] = node.input;
  // Rows of the tensor, not N: the weights of all experts may be stacked in it.
  const values = (tensor: TensorProto): number => {
    const rows = storedBits(tensor) / (blocks * blockSize * bits);
    return Number.isInteger(rows) ? rows * k : NaN;
  };
  if (claims.weight(originOf(scope, weight), storage, values))
    claims.parts(scope, [scales, zeroPoints], storage);
}

function claimTable(scope: Scope, node: NodeProto, claims: Claims): void {
  const layout = tableLayout(node);
  if (typeof layout === "string") return;
  const { bits, blockSize } = layout;
  const storage = `GatherBlockQuantized ${bits}-bit block ${blockSize}`;
  const [table = "", , scales, zeroPoints] = node.input;
  if (claims.weight(originOf(scope, table), storage, (tensor) => storedBits(tensor) / bits)) {
    claims.parts(scope, [scales, zeroPoints], storage);
  }
}

/** Inputs of QMoE: the weights of the three projections, then scales and zero points of each. */
const EXPERTS: readonly (readonly [weight: number, scales: number, zeroPoints: number])[] = [
  [2, 3, 11],
  [5, 6, 12],
  [8, 9, 13],
];

function claimExperts(scope: Scope, node: NodeProto, claims: Claims): void {
  const { input } = node;
  const bits = intAttribute(node, "expert_weight_bits", 4);
  const block = intAttribute(node, "block_size", 0);
  const storage = `QMoE ${bits}-bit ${block > 0 ? `block ${block}` : "by row"}`;
  for (const [weight, scales, zeroPoints] of EXPERTS) {
    const found = originOf(scope, input[weight] ?? "");
    if (claims.weight(found, storage, (tensor) => storedBits(tensor) / bits)) {
      claims.parts(scope, [input[scales], input[zeroPoints]], storage);
    }
  }
}

function claimBnb4(scope: Scope, node: NodeProto, claims: Claims): void {
  const storage = `MatMulBnb4 4-bit block ${intAttribute(node, "block_size", NaN)}`;
  const [, weight = "", absmax] = node.input;
  if (claims.weight(originOf(scope, weight), storage, (tensor) => storedBits(tensor) / 4)) {
    claims.parts(scope, [absmax], storage);
  }
}

function claimDequantized(scope: Scope, node: NodeProto, claims: Claims): void {
  const [weight = "", scale, zeroPoint] = node.input;
  const found = originOf(scope, weight);
  if (found === undefined) return;
  const block = intAttribute(node, "block_size", 0);
  const type = elementTypeById(found.tensor.dataType)?.name ?? "";
  const storage = `DequantizeLinear ${type}${block > 0 ? ` block ${block}` : ""}`;
  claims.weight(found, storage, ({ dims }) => elementCount(dims, "Tensor"));
  claims.parts(scope, [scale, zeroPoint], storage);
}

function claimAll(model: ModelProto): Claims {
  const claims = new Claims();
  for (const scope of scopesOf(model)) {
    for (const node of scope.nodes) {
      if (isNBits(node)) claimNBits(scope, node, claims);
      else if (isTable(node)) claimTable(scope, node, claims);
      else if (isMicrosoft(node, "QMoE")) claimExperts(scope, node, claims);
      else if (isMicrosoft(node, "MatMulBnb4")) claimBnb4(scope, node, claims);
      else if (node.opType === "DequantizeLinear") claimDequantized(scope, node, claims);
    }
  }
  return claims;
}

/**
 * The tensors whose bytes are all different: of tensors that share theirs, as tied weights do, the first.
 */
export function distinctTensors(tensors: readonly OnnxTensor[]): OnnxTensor[] {
  const seen = new Set<string>();
  return tensors.filter(({ place, byteLength }) => {
    if (place.kind !== "external" || byteLength === 0) return true;
    const key = `${place.offset} ${place.length} ${place.location}`;
    if (seen.has(key)) return false;
    seen.add(key);
    return true;
  });
}

/**
 * How the weights of a model are stored, most bytes first: by the operators that read them where these say more
 * than the element type does. Tensors that share their bytes count once.
 *
 * @param tensors of the model, as `listTensors` gives them
 */
export function storedWeights(model: ModelProto, tensors: readonly OnnxTensor[]): StoredWeights[] {
  const claims = claimAll(model);
  const totals = new Map<string, { tensors: number; values: number; bytes: number; weights: boolean }>();
  // Of tensors that share their bytes, one that an operator reads says more.
  const claimed = ({ path }: OnnxTensor): number => (claims.get(path) === undefined ? 0 : 1);
  const inOrder = tensors.toSorted((a, b) => claimed(b) - claimed(a));
  for (const { path, type, dims, byteLength } of distinctTensors(inOrder)) {
    const claim = claims.get(path);
    const storage = claim?.storage ?? type;
    const weights = claim !== undefined || !NO_WEIGHTS.has(type);
    const total = totals.get(storage) ?? { tensors: 0, values: 0, bytes: 0, weights };
    total.tensors += claim?.part === true ? 0 : 1;
    total.values += claim?.values ?? elementCount(dims, "Tensor");
    total.bytes += byteLength;
    totals.set(storage, total);
  }
  return [...totals]
    .map(([storage, total]) => Object.assign({ storage }, total))
    .toSorted((a, b) => b.bytes - a.bytes);
}

/** `accuracy_level` of all MatMulNBits of a model: how many nodes have which, in order. */
export function accuracyLevels(model: ModelProto): { level: number; nodes: number }[] {
  const counts = new Map<number, number>();
  for (const node of scopesOf(model).flatMap(({ nodes }) => nodes)) {
    if (!isNBits(node)) continue;
    const level = accuracyLevel(node);
    counts.set(level, (counts.get(level) ?? 0) + 1);
  }
  return [...counts].map(([level, nodes]) => ({ level, nodes })).toSorted((a, b) => a.level - b.level);
}
