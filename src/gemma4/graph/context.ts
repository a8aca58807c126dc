import { attr } from "../../../formats/onnx/build.js";
import type { Gemma4Config, LayerKind, Role, Weight } from "../types.js";
import { headWeight, listWeights } from "../weights.js";
import type { FloatType, GraphBuilder } from "./builder.js";
import type { Range, WeightSource } from "./stored.js";

/** A place in the model where values can be looked at. */
export interface Observed {
  /**
   * `residual`: the stream after an addition; `product`: what a matrix product or a gate gives, which the variants
   * with halves compute in halves; `input`: what a matrix reads.
   */
  readonly kind: "residual" | "product" | "input";
  /** Null outside the layers. */
  readonly layer: number | null;
  /** Name of the value in the graph. */
  readonly value: string;
  /** The weights that read it, for `input`. */
  readonly weights?: readonly Weight[];
}

/** A value of each turn of a loop over experts, of which the loop gives all. */
export interface Collected {
  /** Of the whole: [turns, …dims]. */
  readonly name: string;
  /** Name of the value in the loop. */
  readonly value: string;
  readonly type: "FLOAT" | "INT64";
  readonly dims: readonly number[];
}

/** A product of rows with a matrix: y = x · Wᵀ. */
export interface MatrixProduct {
  readonly weight: Weight;
  /** Those rows of the matrix that are multiplied; undefined for all. */
  readonly rows: Range | undefined;
  /** Name of [rows, in], with any dimensions in front. */
  readonly x: string;
  /** Name of [rows, out], with the same. */
  readonly y: string;
}

/** What a graph is built for. */
export interface GraphOptions {
  readonly config: Gemma4Config;
  readonly source: WeightSource;
  /** What matrix products and attention are computed in; the residual stream, norms and soft cap never leave FLOAT. */
  readonly internal: FloatType;
  /** Attribute of every MatMulNBits: 0 computes with single precision, 4 rounds activations to 8 bits. */
  readonly accuracyLevel: number;
  readonly observe?: (observed: Observed) => void;
  /** Is told of every product with a matrix of floats outside of loops. */
  readonly multiplied?: (product: MatrixProduct) => void;
  /**
   * Adds values to the loop over the experts of a layer, which it has for each expert that is in use.
   *
   * @param builder of the body of the loop
   * @param observed rows that an expert reads, [rows, columns]
   */
  readonly collect?: (builder: GraphBuilder, observed: Observed) => readonly Collected[];
}

/** Everything that the parts of a graph share while it is built. */
export class GraphContext {
  readonly builder: GraphBuilder;
  readonly options: GraphOptions;
  readonly config: Gemma4Config;
  readonly #weights: ReadonlyMap<string, Weight>;

  constructor(builder: GraphBuilder, options: GraphOptions) {
    this.builder = builder;
    this.options = options;
    this.config = options.config;
    const { config } = options;
    const weights = [...listWeights(config), ...(config.tiedEmbeddings ? [headWeight(config)] : [])];
    this.#weights = new Map(weights.map((weight) => [keyOf(weight.role, weight.layer), weight]));
  }

  /** The same options and weights for the body of a loop. */
  inside(builder: GraphBuilder): GraphContext {
    return new GraphContext(builder, this.options);
  }

  weight(role: Role, layer: number | null = null): Weight {
    const weight = this.#weights.get(keyOf(role, layer));
    if (weight === undefined) throw new RangeError(`there is no ${role} in layer ${layer}`);
    return weight;
  }

  observe(observed: Observed): void {
    this.options.observe?.(observed);
  }

  /** A weight that is a vector, in single precision. */
  vector(weight: Weight): string {
    const { name, shape } = weight;
    const form = this.options.source.form(weight);
    if (form.kind !== "float") throw new RangeError(`${name} is a vector and cannot be ${form.bits} bits`);
    const tensor = this.builder.tensor({ name, type: form.type, dims: shape, weight, form, part: "values" });
    return form.type === "FLOAT"
      ? tensor
      : this.once(`${name}.float`, (at) => this.builder.cast(at, tensor, "FLOAT"));
  }

  readonly #made = new Map<string, string>();

  /** The value of that name, made when it is first asked for. */
  once(name: string, make: (name: string) => string): string {
    const made = this.#made.get(name) ?? make(name);
    this.#made.set(name, made);
    return made;
  }

  /** A value of single precision in the type that matrix products are computed in. */
  toInternal(name: string, value: string): string {
    return this.options.internal === "FLOAT" ? value : this.builder.cast(name, value, "FLOAT16");
  }

  /** The way back. */
  toFloat(name: string, value: string): string {
    return this.options.internal === "FLOAT" ? value : this.builder.cast(name, value, "FLOAT");
  }

  /**
   * x / √(mean x² + ε) · gain over the last dimension.
   *
   * @param gain name of a vector
   */
  norm(name: string, x: string, gain: string): string {
    return this.builder.add("SimplifiedLayerNormalization", name, [x, gain], {
      axis: attr.int(-1),
      epsilon: attr.float(this.config.rmsEpsilon),
      stash_type: attr.int(1),
    });
  }

  /** A vector of ones. */
  ones(length: number): string {
    return this.once(`ones.${length}`, (name) => {
      const one = this.builder.number(1);
      return this.builder.add("Expand", name, [one, this.builder.integers([length])]);
    });
  }

  window(kind: LayerKind): number {
    return kind === "sliding" ? this.config.slidingWindow : -1;
  }
}

function keyOf(role: Role, layer: number | null): string {
  return `${role}.${layer}`;
}
