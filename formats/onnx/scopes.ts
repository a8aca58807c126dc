import {
  ATTRIBUTE_TYPES,
  type AttributeProto,
  type GraphProto,
  type ModelProto,
  type NodeProto,
  type TensorProto,
} from "./types.js";
import { isOnnxDomain, MICROSOFT_DOMAIN } from "./versions.js";

/**
 * Steps that are taken from value to value before it is given up: names may lead in circles. Real: 40, a
 * residual stream through ten layers.
 */
const MAX_STEPS = 64;

/** Attributes of a node among which one is looked for. Real: 17, those that GroupQueryAttention may have. */
const MAX_ATTRIBUTES = 64;

/** A tensor of the model, and where it stands, in the words of `OnnxTensor.path`. */
export interface Constant {
  readonly tensor: TensorProto;
  readonly path: string;
}

/** What a name stands for in the graph that defines it. */
export type Definition =
  | { readonly kind: "initializer"; readonly scope: Scope; readonly constant: Constant }
  | { readonly kind: "input"; readonly scope: Scope }
  | { readonly kind: "node"; readonly scope: Scope; readonly node: NodeProto; readonly index: number };

/** Operators whose output is made of the values of their first input. */
const MOVES: ReadonlySet<string> = new Set([
  "Cast",
  "Flatten",
  "Gather",
  "Identity",
  "Reshape",
  "Slice",
  "Squeeze",
  "Transpose",
  "Unsqueeze",
]);

/** Operators whose first output has the element type of one of their inputs: which one. */
const TYPE_FROM: ReadonlyMap<string, number> = new Map([
  ...[
    "Add",
    "Clip",
    "Div",
    "Expand",
    "FastGelu",
    "Flatten",
    "Gather",
    "Gelu",
    "Gemm",
    "GroupQueryAttention",
    "Identity",
    "LayerNormalization",
    "MatMul",
    "MatMulNBits",
    "Mul",
    "Neg",
    "Pow",
    "RMSNormalization",
    "Reshape",
    "RotaryEmbedding",
    "ScatterND",
    "Sigmoid",
    "SimplifiedLayerNormalization",
    "SkipSimplifiedLayerNormalization",
    "Slice",
    "Softmax",
    "Squeeze",
    "Sub",
    "Tanh",
    "Transpose",
    "Unsqueeze",
  ].map((opType) => [opType, 0] as const),
  ["Where", 1],
  ["DequantizeLinear", 1],
  ["GatherBlockQuantized", 2],
]);

/** Whether the operator is one of ONNX itself or of ONNX Runtime. */
function isKnownDomain(domain: string): boolean {
  return isOnnxDomain(domain) || domain === MICROSOFT_DOMAIN;
}

/**
 * A list of nodes with the names that it defines: the graph of the model, the graph of an attribute (the body
 * of a Loop, the branch of an If), or the body of a function. The nodes of a graph in an attribute see the
 * names around it as well.
 */
export class Scope {
  /** Such as `graph.node[3].attribute[0].g`. */
  readonly path: string;
  readonly nodes: readonly NodeProto[];
  /** Null for the body of a function. */
  readonly graph: GraphProto | null;
  readonly inputs: readonly string[];
  readonly outputs: readonly string[];
  /** The scope around it, and the index of the node there whose attribute it is. */
  readonly outer: { readonly scope: Scope; readonly index: number } | null;
  /** Domains of operators that are imported; that of ONNX itself is empty. */
  readonly domains: ReadonlySet<string>;
  readonly #definitions = new Map<string, Definition>();
  readonly #types = new Map<string, number>();

  constructor(
    path: string,
    body: GraphProto | Pick<Scope, "nodes" | "inputs" | "outputs">,
    domains: ReadonlySet<string>,
    outer: Scope["outer"],
  ) {
    this.path = path;
    this.outer = outer;
    this.domains = domains;
    if ("node" in body) {
      this.graph = body;
      this.nodes = body.node;
      this.inputs = body.input.map(({ name }) => name);
      this.outputs = body.output.map(({ name }) => name);
      this.#defineGraph(body);
    } else {
      this.graph = null;
      ({ nodes: this.nodes, inputs: this.inputs, outputs: this.outputs } = body);
    }
    for (const name of this.inputs) this.#define(name, { kind: "input", scope: this });
    for (const [index, node] of this.nodes.entries()) {
      for (const name of node.output) this.#define(name, { kind: "node", scope: this, node, index });
    }
  }

  #defineGraph({ initializer, sparseInitializer = [], input, output, valueInfo }: GraphProto): void {
    for (const [index, tensor] of initializer.entries()) {
      const constant = { tensor, path: `${this.path}.initializer[${index}]` };
      this.#define(tensor.name ?? "", { kind: "initializer", scope: this, constant });
    }
    for (const [index, { values }] of sparseInitializer.entries()) {
      if (values === undefined) continue;
      const constant = { tensor: values, path: `${this.path}.sparseInitializer[${index}].values` };
      this.#define(values.name ?? "", { kind: "initializer", scope: this, constant });
    }
    for (const { name, type } of [...input, ...output, ...valueInfo]) {
      if (type?.tensorType !== undefined) this.#types.set(name, type.tensorType.elemType);
    }
  }

  /** The first definition counts; that there is a second one is for the lint to say. */
  #define(name: string, definition: Definition): void {
    if (name !== "" && !this.#definitions.has(name)) this.#definitions.set(name, definition);
  }

  /** What a name stands for in this scope itself. */
  own(name: string): Definition | undefined {
    return this.#definitions.get(name);
  }

  /** What a name stands for here or in a scope around this one. */
  find(name: string): Definition | undefined {
    return this.#definitions.get(name) ?? this.outer?.scope.find(name);
  }

  /** Id of the element type that the graph itself tells for a value. */
  toldType(name: string): number | undefined {
    return this.#types.get(name);
  }

  /** The tensor that a value is: an initializer, or the value of a Constant. */
  constant(name: string): Constant | undefined {
    const found = this.find(name);
    if (found?.kind === "initializer") return found.constant;
    if (found?.kind !== "node" || found.node.opType !== "Constant") return undefined;
    // A Constant has one attribute, which says the kind of its value by its name.
    const [value] = found.node.attribute;
    if (value?.name !== "value" || value.t === undefined) return undefined;
    return { tensor: value.t, path: `${found.scope.path}.node[${found.index}].attribute[0].t` };
  }
}

/**
 * The tensor that a value is made of, be it only cast, in another shape or a part of it.
 *
 * @param through operators that are looked through
 */
export function originOf(
  scope: Scope,
  name: string,
  through: ReadonlySet<string> = MOVES,
): Constant | undefined {
  let at = { scope, name };
  for (let step = 0; step < MAX_STEPS; step++) {
    const constant = at.scope.constant(at.name);
    if (constant !== undefined) return constant;
    const found = at.scope.find(at.name);
    if (found?.kind !== "node" || !through.has(found.node.opType)) return undefined;
    at = { scope: found.scope, name: found.node.input[0] ?? "" };
  }
  return undefined;
}

/** Id of the element type of a value, as far as it can be told without the operators' own rules. */
export function elementTypeOf(scope: Scope, name: string): number | undefined {
  let at = { scope, name };
  for (let step = 0; step < MAX_STEPS; step++) {
    const constant = at.scope.constant(at.name);
    if (constant !== undefined) return constant.tensor.dataType;
    const found = at.scope.find(at.name);
    if (found === undefined) return undefined;
    const told = found.scope.toldType(at.name);
    if (told !== undefined) return told;
    if (found.kind !== "node") return undefined;
    const { node } = found;
    if (!isKnownDomain(node.domain ?? "")) return undefined;
    if (node.opType === "Cast") return intAttribute(node, "to");
    const from = TYPE_FROM.get(node.opType);
    if (from === undefined || node.output[0] !== at.name) return undefined;
    at = { scope: found.scope, name: node.input[from] ?? "" };
  }
  return undefined;
}

/** An attribute of a node; nodes are asked again and again, so that those of a hostile one are not all looked at. */
function attributeOf({ attribute }: NodeProto, name: string): AttributeProto | undefined {
  const end = Math.min(attribute.length, MAX_ATTRIBUTES);
  for (let index = 0; index < end; index++) if (attribute[index]?.name === name) return attribute[index];
  return undefined;
}

/** A number among the attributes of a node: NaN when it is of another kind, the default when it is not there. */
export function intAttribute(node: NodeProto, name: string): number | undefined;
export function intAttribute(node: NodeProto, name: string, absent: number): number;
export function intAttribute(node: NodeProto, name: string, absent?: number): number | undefined {
  const found = attributeOf(node, name);
  if (found === undefined) return absent;
  return found.type === ATTRIBUTE_TYPES.INT ? Number(found.i ?? 0) : NaN;
}

/** The same for a number of single precision. */
export function floatAttribute(node: NodeProto, name: string, absent: number): number {
  const found = attributeOf(node, name);
  if (found === undefined) return absent;
  return found.type === ATTRIBUTE_TYPES.FLOAT ? (found.f ?? 0) : NaN;
}

/** A list of numbers among the attributes of a node. */
export function intsAttribute(node: NodeProto, name: string): number[] | undefined {
  return attributeOf(node, name)?.ints?.map(Number);
}

/** A text among the attributes of a node. */
export function textAttribute(node: NodeProto, name: string): string | undefined {
  const found = attributeOf(node, name);
  return found?.s === undefined ? undefined : new TextDecoder().decode(found.s);
}

/** Whether a node is of an operator that ONNX Runtime adds. */
export function isMicrosoft(node: NodeProto, opType: string): boolean {
  return node.opType === opType && node.domain === MICROSOFT_DOMAIN;
}

function collect(scope: Scope, into: Scope[]): void {
  into.push(scope);
  for (const [index, { attribute }] of scope.nodes.entries()) {
    for (const [at, { g, graphs = [] }] of attribute.entries()) {
      const path = `${scope.path}.node[${index}].attribute[${at}]`;
      const outer = { scope, index };
      if (g !== undefined) collect(new Scope(`${path}.g`, g, scope.domains, outer), into);
      for (const [number, graph] of graphs.entries()) {
        collect(new Scope(`${path}.graphs[${number}]`, graph, scope.domains, outer), into);
      }
    }
  }
}

function domainsOf(imports: ModelProto["opsetImport"]): ReadonlySet<string> {
  return new Set(imports.map(({ domain }) => (isOnnxDomain(domain) ? "" : domain)));
}

/** All scopes of a model, each before those inside it: the graph first, then functions. Training graphs are left out. */
export function scopesOf({ graph, opsetImport, functions = [] }: ModelProto): Scope[] {
  const scopes: Scope[] = [];
  const domains = domainsOf(opsetImport);
  collect(new Scope("graph", graph, domains, null), scopes);
  for (const [index, { node, input, output, opsetImport }] of functions.entries()) {
    const body = { nodes: node, inputs: input, outputs: output };
    const own = domainsOf(opsetImport);
    collect(new Scope(`functions[${index}]`, body, own, null), scopes);
  }
  return scopes;
}
