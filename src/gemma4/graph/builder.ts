import { attr, type AttributeValue, inlineTensor, node } from "../../../formats/onnx/build.js";
import type { NodeProto, TensorProto } from "../../../formats/onnx/types.js";
import type { GraphTensor } from "./stored.js";

/** Types that values are computed in. */
export type FloatType = "FLOAT" | "FLOAT16";

/** Ids of the element types that values are cast to. */
const CAST_IDS = { FLOAT: 1, FLOAT16: 10, INT32: 6, INT64: 7, BOOL: 9 } as const;

export type Attributes = Readonly<Record<string, AttributeValue>>;

/** Domain of ONNX Runtime's own operators. */
export const MICROSOFT = "com.microsoft";

const utf16 = new Uint16Array([0x0102]);
const LITTLE_ENDIAN = new Uint8Array(utf16.buffer)[0] === 2;

/**
 * Collects the nodes of a graph with the constants and weights that they read. Values are named after the node that
 * makes them.
 */
export class GraphBuilder {
  readonly nodes: NodeProto[] = [];
  /** Small tensors that are part of the graph itself. */
  readonly constants: TensorProto[];
  /** Weights, in the order in which they are first read. */
  readonly tensors: GraphTensor[];
  readonly #names: Set<string>;
  readonly #shared: Map<string, string>;

  /** @param parent the graph that this one is the body of a loop in: what it holds is seen from here */
  constructor(parent?: GraphBuilder) {
    this.constants = parent?.constants ?? [];
    this.tensors = parent?.tensors ?? [];
    this.#names = parent === undefined ? new Set<string>() : parent.#names;
    this.#shared = parent === undefined ? new Map<string, string>() : parent.#shared;
  }

  /**
   * Adds a node with one output.
   *
   * @param name of the node and of its output, once in the graph
   * @param inputs an empty name for an optional input that is not given
   * @returns the name of the output
   */
  add(
    opType: string,
    name: string,
    inputs: readonly string[],
    attributes: Attributes = {},
    domain?: string,
  ): string {
    return this.addMany(opType, name, inputs, [name], attributes, domain)[0]!;
  }

  /** Adds a node with outputs of given names. */
  addMany(
    opType: string,
    name: string,
    inputs: readonly string[],
    outputs: readonly string[],
    attributes: Attributes = {},
    domain?: string,
  ): readonly string[] {
    if (this.#names.has(name)) throw new RangeError(`there is a node ${name} already`);
    this.#names.add(name);
    this.nodes.push(
      node(opType, { name, inputs, outputs, attributes, ...(domain === undefined ? {} : { domain }) }),
    );
    return outputs;
  }

  /** Adds one of ONNX Runtime's own operators. */
  addMicrosoft(opType: string, name: string, inputs: readonly string[], attributes: Attributes = {}): string {
    return this.add(opType, name, inputs, attributes, MICROSOFT);
  }

  cast(name: string, value: string, to: keyof typeof CAST_IDS): string {
    return this.add("Cast", name, [value], { to: attr.int(CAST_IDS[to]) });
  }

  /** A list of whole numbers; the same list is stored once. */
  integers(values: readonly number[]): string {
    return this.#constant(`int64[${values.join(",")}]`, "INT64", [values.length], bigints(values));
  }

  /** A single whole number without dimensions. */
  integer(value: number): string {
    return this.#constant(`int64(${value})`, "INT64", [], bigints([value]));
  }

  /** A single number without dimensions, rounded to single precision. */
  number(value: number): string {
    return this.#constant(`float(${value})`, "FLOAT", [], new Float32Array([value]));
  }

  /** A list of numbers of single precision. */
  numbers(name: string, values: Float32Array): string {
    return this.#constant(name, "FLOAT", [values.length], values);
  }

  /** A weight, or a part of one; asking for the same name again gives the same tensor. */
  tensor(tensor: GraphTensor): string {
    if (!this.#shared.has(tensor.name)) {
      this.#shared.set(tensor.name, tensor.name);
      this.tensors.push(tensor);
    }
    return tensor.name;
  }

  #constant(
    name: string,
    type: "INT64" | "FLOAT",
    dims: readonly number[],
    values: BigInt64Array | Float32Array,
  ): string {
    if (!LITTLE_ENDIAN) throw new RangeError("this machine is not little-endian");
    if (!this.#shared.has(name)) {
      this.#shared.set(name, name);
      const bytes = new Uint8Array(values.buffer, values.byteOffset, values.byteLength);
      this.constants.push(inlineTensor(name, type, dims, bytes.slice()));
    }
    return name;
  }
}

function bigints(values: readonly number[]): BigInt64Array {
  return BigInt64Array.from(values, BigInt);
}
