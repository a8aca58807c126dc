import { shown } from "../../errors.js";
import { attr, type AttributeValue } from "../build.js";
import { OnnxError } from "../errors.js";
import type { NodeProto } from "../types.js";
import { MICROSOFT_DOMAIN } from "../versions.js";

/** Takes the nodes that compute gradients. The output of a node is named after it. */
export interface NodeSink {
  add(
    opType: string,
    name: string,
    inputs: readonly string[],
    attributes?: Readonly<Record<string, AttributeValue>>,
    domain?: string,
  ): string;
  addMany(
    opType: string,
    name: string,
    inputs: readonly string[],
    outputs: readonly string[],
    attributes?: Readonly<Record<string, AttributeValue>>,
    domain?: string,
  ): readonly string[];
  /** A list of whole numbers. */
  integers(values: readonly number[]): string;
  /** A whole number without dimensions. */
  integer(value: number): string;
  /** A number of single precision without dimensions. */
  number(value: number): string;
}

/** Gradients of the inputs of a node, by their places; what is not wanted is left out. */
export type InputGradients = readonly (string | undefined)[];

/** Adds the nodes that compute the gradients of a node's inputs from those of its outputs. */
export type Rule = (place: Place) => InputGradients;

export interface PlaceParts {
  readonly sink: NodeSink;
  readonly node: NodeProto;
  /** Start of the names of nodes that are added. */
  readonly name: string;
  /** Gradients of the outputs; undefined for those that nothing depends on. At least one is there. */
  readonly gradients: readonly (string | undefined)[];
  /** For each input, whether its gradient is wanted. */
  readonly needed: readonly boolean[];
  /** Whether a value of the graph depends smoothly on what gradients are wanted of. */
  readonly isActive: (value: string) => boolean;
  /** Takes a gradient of a value that is no input of the node: one that a body reads. */
  readonly give: (value: string, gradient: string) => void;
}

/** A node whose gradients are to be computed, with short ways to add nodes for them. */
export class Place {
  readonly node: NodeProto;
  readonly #parts: PlaceParts;
  #count = 0;

  constructor(parts: PlaceParts) {
    this.node = parts.node;
    this.#parts = parts;
  }

  get inputs(): number {
    return this.node.input.length;
  }

  /** Whether an input is given: optional ones have an empty name or none. */
  has(index: number): boolean {
    return (this.node.input[index] ?? "") !== "";
  }

  /** @throws OnnxError for an input that is not given */
  input(index: number): string {
    if (this.has(index)) return this.node.input[index]!;
    throw this.error(`has no input ${index}, expected one`);
  }

  /** @throws OnnxError for an output that has no name */
  output(index = 0): string {
    const name = this.node.output[index] ?? "";
    if (name !== "") return name;
    throw this.error(`has no output ${index}, expected one`);
  }

  /** Gradient of an output, if anything depends on it. */
  gradientOf(index: number): string | undefined {
    return this.#parts.gradients[index];
  }

  /** Gradient of the first output. */
  get gradient(): string {
    const first = this.#parts.gradients[0];
    if (first !== undefined) return first;
    throw this.error("is not reached through its first output, which is the one that has a gradient");
  }

  needs(index: number): boolean {
    return this.#parts.needed[index] === true;
  }

  /** The result of `make` for an input whose gradient is wanted. */
  wanted(index: number, make: () => string): string | undefined {
    return this.needs(index) ? make() : undefined;
  }

  /** Whether the gradient of a value is wanted that is no input of the node, but that a body of it may read. */
  isActive(value: string): boolean {
    return this.#parts.isActive(value);
  }

  /** Gives a gradient of such a value. */
  give(value: string, gradient: string): void {
    this.#parts.give(value, gradient);
  }

  /** A complaint about the node. */
  error(problem: string): OnnxError {
    const { opType, name = "" } = this.node;
    return new OnnxError(
      "onnx-gradient",
      `${opType} ${shown(name === "" ? (this.node.output[0] ?? "") : name)} ${problem}.`,
    );
  }

  #name(): string {
    return `${this.#parts.name}.${this.#count++}`;
  }

  add(
    opType: string,
    inputs: readonly string[],
    attributes: Readonly<Record<string, AttributeValue>> = {},
    domain?: string,
  ): string {
    return this.#parts.sink.add(opType, this.#name(), inputs, attributes, domain);
  }

  addMany(
    opType: string,
    inputs: readonly string[],
    count: number,
    attributes: Readonly<Record<string, AttributeValue>> = {},
  ): readonly string[] {
    const name = this.#name();
    const outputs = Array.from({ length: count }, (_, index) => `${name}.output_${index}`);
    return this.#parts.sink.addMany(opType, name, inputs, outputs, attributes);
  }

  integers(...values: readonly number[]): string {
    return this.#parts.sink.integers(values);
  }

  integer(value: number): string {
    return this.#parts.sink.integer(value);
  }

  number(value: number): string {
    return this.#parts.sink.number(value);
  }

  /** A product of values that broadcasting makes alike. */
  multiply(first: string, ...others: readonly string[]): string {
    return others.reduce((product, other) => this.add("Mul", [product, other]), first);
  }

  plus(a: string, b: string): string {
    return this.add("Add", [a, b]);
  }

  shape(value: string): string {
    return this.add("Shape", [value]);
  }

  /** A value with the dimensions of another one, which has as many elements. */
  shapedLike(value: string, like: string): string {
    return this.reshape(value, this.shape(like));
  }

  /** @param shape a name; a dimension of 0 is one of 0 */
  reshape(value: string, shape: string): string {
    return this.add("Reshape", [value, shape], { allowzero: attr.int(1) });
  }

  /** Σ over an axis, which stays as one of 1. */
  sum(value: string, axis: number): string {
    return this.add("ReduceSum", [value, this.integers(axis)], { keepdims: attr.int(1) });
  }

  /** a · b of the last two dimensions, each turned round on the way if asked for. */
  product(a: string, b: string, { transA = false, transB = false, alpha = 1 }: ProductOptions = {}): string {
    if (!transA && !transB && alpha === 1) return this.add("MatMul", [a, b]);
    const attributes = {
      transA: attr.int(Number(transA)),
      transB: attr.int(Number(transB)),
      alpha: attr.float(alpha),
    };
    return this.add("FusedMatMul", [a, b], attributes, MICROSOFT_DOMAIN);
  }

  /** Sums a gradient over the dimensions along which a value was repeated to give it: the way back of broadcasting. */
  reducedTo(value: string, gradient: string): string {
    const shape = this.shape(value);
    const whole = this.shape(gradient);
    const missing = this.add("Sub", [this.add("Size", [whole]), this.add("Size", [shape])]);
    const length = this.reshape(missing, this.integers(1));
    const ones = this.add("Expand", [this.integer(1), length]);
    const padded = this.add("Concat", [ones, shape], { axis: attr.int(0) });
    const repeated = this.add("Not", [this.add("Equal", [padded, whole])]);
    const axes = this.add("Reshape", [this.add("NonZero", [repeated]), this.integers(-1)]);
    const sum = this.add("ReduceSum", [gradient, axes], {
      keepdims: attr.int(1),
      noop_with_empty_axes: attr.int(1),
    });
    return this.reshape(sum, shape);
  }
}

interface ProductOptions {
  readonly transA?: boolean;
  readonly transB?: boolean;
  readonly alpha?: number;
}
