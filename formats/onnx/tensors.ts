import { shown } from "../errors.js";
import { OnnxError } from "./errors.js";
import { readTensor, type TensorData } from "./tensor-data.js";
import type {
  AttributeProto,
  GraphProto,
  ModelProto,
  NodeProto,
  SparseTensorProto,
  TensorProto,
} from "./types.js";

/** A tensor of a model: an initializer, or the value of an attribute. */
export interface OnnxTensor extends TensorData {
  /** Empty for most values of attributes. */
  readonly name: string;
  /** Where it stands in the model, such as `graph.initializer[3]`. */
  readonly path: string;
}

/** Walks through a model; its depth is that of the messages, which is bounded. */
class TensorWalk {
  readonly tensors: OnnxTensor[] = [];
  readonly #file: string;

  constructor(file: string) {
    this.#file = file;
  }

  graph(graph: GraphProto | undefined, path: string): void {
    if (graph === undefined) return;
    const names = new Set<string>();
    for (const [index, tensor] of graph.initializer.entries()) {
      const here = `${path}.initializer[${index}]`;
      const name = tensor.name ?? "";
      if (name === "" || names.has(name)) {
        const problem = name === "" ? "has no name" : `has the name ${shown(name)} of another one`;
        throw new OnnxError("onnx-name", `${this.#file}: ${here} ${problem}.`);
      }
      names.add(name);
      this.#tensor(tensor, here);
    }
    for (const [index, sparse] of (graph.sparseInitializer ?? []).entries()) {
      this.#sparse(sparse, `${path}.sparseInitializer[${index}]`);
    }
    this.nodes(graph.node, path);
  }

  nodes(nodes: readonly NodeProto[], path: string): void {
    for (const [index, { attribute }] of nodes.entries()) {
      if (attribute.length > 0) this.attributes(attribute, `${path}.node[${index}].attribute`);
    }
  }

  attributes(attributes: readonly AttributeProto[], path: string): void {
    for (const [
      index,
      { t, g, tensors = [], graphs = [], sparseTensor, sparseTensors = [] },
    ] of attributes.entries()) {
      const here = `${path}[${index}]`;
      if (t !== undefined) this.#tensor(t, `${here}.t`);
      this.graph(g, `${here}.g`);
      for (const [at, tensor] of tensors.entries()) this.#tensor(tensor, `${here}.tensors[${at}]`);
      for (const [at, graph] of graphs.entries()) this.graph(graph, `${here}.graphs[${at}]`);
      if (sparseTensor !== undefined) this.#sparse(sparseTensor, `${here}.sparseTensor`);
      for (const [at, sparse] of sparseTensors.entries())
        this.#sparse(sparse, `${here}.sparseTensors[${at}]`);
    }
  }

  #sparse({ values, indices }: SparseTensorProto, path: string): void {
    if (values !== undefined) this.#tensor(values, `${path}.values`);
    if (indices !== undefined) this.#tensor(indices, `${path}.indices`);
  }

  #tensor(tensor: TensorProto, path: string): void {
    const { name = "" } = tensor;
    const what = `${this.#file}: tensor ${name === "" ? path : `${shown(name)} (${path})`}`;
    this.tensors.push({ name, path, ...readTensor(tensor, what) });
  }
}

/**
 * Lists every tensor of a model and checks it: initializers first, then the values of attributes, nested
 * graphs, functions and training graphs included.
 *
 * @param file names the model in messages
 * @throws OnnxError when a tensor is not sound, or two initializers of a graph have the same name
 */
export function listTensors(model: ModelProto, file: string): OnnxTensor[] {
  const walk = new TensorWalk(file);
  walk.graph(model.graph, "graph");
  for (const [index, { node, attributeProto = [] }] of (model.functions ?? []).entries()) {
    walk.nodes(node, `functions[${index}]`);
    walk.attributes(attributeProto, `functions[${index}].attributeProto`);
  }
  for (const [index, { initialization, algorithm }] of (model.trainingInfo ?? []).entries()) {
    walk.graph(initialization, `trainingInfo[${index}].initialization`);
    walk.graph(algorithm, `trainingInfo[${index}].algorithm`);
  }
  return walk.tensors;
}
