import { shown } from "../../errors.js";
import { elementTypeById } from "../element-types.js";
import { accuracyLevel, isNBits, isTable, nbitsLayout, tableLayout } from "../quantized.js";
import { elementTypeOf, intAttribute, originOf, type Scope } from "../scopes.js";
import type { NodeProto } from "../types.js";
import { type Findings, nodeLabel } from "./findings.js";

/** Between a stored tensor and what has its very shape. */
const SAME_SHAPE: ReadonlySet<string> = new Set(["Cast", "Identity"]);

const FLOATS: ReadonlySet<string> = new Set(["FLOAT", "FLOAT16", "BFLOAT16"]);

/** A node that is looked at, with what its findings need. */
interface Place {
  readonly scope: Scope;
  readonly node: NodeProto;
  readonly label: string;
  readonly findings: Findings;
}

function inputOf({ node }: Place, index: number): string {
  return node.input[index] ?? "";
}

/** Shape of an input that is stored in the model; undefined where it is computed or not given. */
function dimsOf(place: Place, index: number): readonly number[] | undefined {
  return originOf(place.scope, inputOf(place, index), SAME_SHAPE)?.tensor.dims;
}

function typeOf(place: Place, index: number): string | undefined {
  return elementTypeById(elementTypeOf(place.scope, inputOf(place, index)) ?? 0)?.name;
}

function equal(a: readonly number[], b: readonly number[]): boolean {
  return a.length === b.length && a.every((size, index) => size === b[index]);
}

/** The shape of an input is one of those allowed, or not known. */
function expectShape(
  place: Place,
  index: number,
  what: string,
  allowed: readonly (readonly number[])[],
): void {
  const dims = dimsOf(place, index);
  if (dims === undefined || allowed.some((shape) => equal(shape, dims))) return;
  const found = dims.length > 8 ? `${dims.length} dimensions` : `the shape [${dims.join(", ")}]`;
  const message = `${place.node.opType} has ${what} of ${found}, expected [${(allowed[0] ?? []).join(", ")}].`;
  place.findings.add("weight-shape", place.label, message);
}

function expectType(place: Place, index: number, what: string, allowed: readonly string[]): void {
  const type = typeOf(place, index);
  if (type === undefined || allowed.includes(type)) return;
  const message = `${place.node.opType} has ${what} of ${type}, expected ${allowed.join(" or ")}.`;
  place.findings.add("weight-shape", place.label, message);
}

/** Scales have the type of what is multiplied; where either is not known, nothing is said. */
function expectScaleType(place: Place, activation: number, scales: number): void {
  const wanted = typeOf(place, activation);
  const found = typeOf(place, scales);
  if (wanted === undefined || found === undefined || wanted === found) return;
  const message = `${place.node.opType} has scales of ${found}, expected ${wanted} as its activations.`;
  place.findings.add("scale-type", place.label, message);
}

/** Inputs of MatMulNBits. */
const NBITS = { a: 0, b: 1, scales: 2, zeroPoints: 3, bias: 5 } as const;

function lintNBits(place: Place): void {
  const { node, label, findings } = place;
  const layout = nbitsLayout(node);
  if (typeof layout === "string") {
    findings.add("weight-attribute", label, `MatMulNBits ${layout}.`);
    return;
  }
  const { n, bits, blockSize, blocks } = layout;
  expectType(place, NBITS.b, "B", ["UINT8"]);
  expectShape(place, NBITS.b, "B", [[n, blocks, (blockSize * bits) / 8]]);
  expectShape(place, NBITS.scales, "scales", [[n, blocks], [n * blocks]]);
  expectShape(place, NBITS.bias, "a bias", [[n]]);
  expectScaleType(place, NBITS.a, NBITS.scales);
  const type = typeOf(place, NBITS.zeroPoints);
  if (type === undefined) return;
  if (FLOATS.has(type)) {
    expectShape(place, NBITS.zeroPoints, "zero points", [[n, blocks], [n * blocks]]);
    if (bits === 8) {
      findings.add(
        "zero-point-type",
        label,
        `MatMulNBits of 8 bits has zero points of ${type}, expected UINT8.`,
      );
    } else {
      const message = `MatMulNBits has zero points of ${type}: 40 to 140 times slower on a CPU than packed ones.`;
      findings.add("float-zero-point", label, message);
    }
  } else if (type === "UINT8") {
    const bytes = Math.ceil((blocks * bits) / 8);
    expectShape(place, NBITS.zeroPoints, "zero points", [[n, bytes], [n * bytes]]);
  } else {
    findings.add("zero-point-type", label, `MatMulNBits has zero points of ${type}, expected UINT8.`);
  }
}

/** Inputs of GatherBlockQuantized. */
const TABLE = { data: 0, scales: 2, zeroPoints: 3 } as const;

/** Data types of one value an element: bits are those of the type. */
const FOUR_BITS: readonly string[] = ["INT4", "UINT4"];

function lintTable(place: Place): void {
  const { node, label, findings } = place;
  const layout = tableLayout(node);
  const problem = (text: string): void =>
    findings.add("weight-attribute", label, `GatherBlockQuantized ${text}.`);
  if (typeof layout === "string") return problem(layout);
  const { bits, blockSize } = layout;
  const type = typeOf(place, TABLE.data);
  expectType(place, TABLE.data, "data", ["UINT8", ...FOUR_BITS]);
  const packed = type === "UINT8";
  if (type !== undefined && !packed && bits !== 4) return problem(`has ${bits} bits and data of ${type}`);
  const zeroPoints = typeOf(place, TABLE.zeroPoints);
  if (zeroPoints !== undefined && type !== undefined && zeroPoints !== type) {
    const message = `GatherBlockQuantized has zero points of ${zeroPoints}, expected ${type} as its data.`;
    findings.add("zero-point-type", label, message);
    return;
  }
  const dims = dimsOf(place, TABLE.data);
  const axis = intAttribute(node, "quantize_axis", 1);
  // Any other axis is possible for 4-bit types, and nobody's choice for a table of embeddings.
  if (dims === undefined || type === undefined || (axis !== dims.length - 1 && axis !== -1)) return;
  const rows = dims.slice(0, -1);
  const columns = packed ? (dims.at(-1)! * 8) / bits : dims.at(-1)!;
  const blocks = Math.ceil(columns / blockSize);
  expectShape(place, TABLE.scales, "scales", [[...rows, blocks]]);
  const zeroPointColumns = packed ? Math.ceil((blocks * bits) / 8) : blocks;
  expectShape(place, TABLE.zeroPoints, "zero points", [[...rows, zeroPointColumns]]);
}

const TWO_BITS: ReadonlySet<string | undefined> = new Set(["INT2", "UINT2"]);

/** ONNX Runtime 1.30 makes a MatMulNBits of the two nodes, and of its results only whole groups of four are right. */
function lintDequantize(place: Place): void {
  const { scope, node, label, findings } = place;
  const found = scope.find(node.input[1] ?? "");
  if (found?.kind !== "node" || found.node.opType !== "DequantizeLinear") return;
  const weight = found.scope.constant(found.node.input[0] ?? "")?.tensor;
  if (weight === undefined || !TWO_BITS.has(elementTypeById(weight.dataType)?.name)) return;
  const columns = weight.dims.length === 2 ? weight.dims[1]! : 0;
  if (columns % 4 === 0) return;
  const name = shown(found.node.input[0]);
  findings.add(
    "dequantize-2-bit",
    label,
    `MatMul takes ${name} of 2 bits and ${columns} columns: ONNX Runtime computes it wrong unless they are a multiple of 4.`,
  );
}

/** Weights of few bits: shapes and types of their parts agree with the attributes of the node that reads them. */
export function lintWeights(scope: Scope, findings: Findings): void {
  for (const [index, node] of scope.nodes.entries()) {
    const place = { scope, node, label: nodeLabel(scope, index), findings };
    if (isNBits(node)) lintNBits(place);
    else if (isTable(node)) lintTable(place);
    else if (node.opType === "MatMul") lintDequantize(place);
  }
}

/** Levels below 4 keep activations as they are, which 4-bit kernels do quickly and those of 2 and 8 bits do not. */
export function lintAccuracyLevels(scopes: readonly Scope[], findings: Findings): void {
  const slow = scopes
    .flatMap(({ nodes }) => nodes)
    .filter((node) => isNBits(node) && intAttribute(node, "bits", 4) !== 4 && accuracyLevel(node) < 4);
  if (slow.length === 0) return;
  const nodes = `${slow.length} ${slow.length === 1 ? "node has" : "nodes have"}`;
  const message = `${nodes} 2 or 8 bits and an accuracy_level below 4: exact, and 100 to 250 times slower on a CPU.`;
  findings.add("accuracy-level", null, message);
}
