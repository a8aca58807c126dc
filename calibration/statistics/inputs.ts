import type { Observed } from "../../src/gemma4/graph/context.js";
import type { Probe } from "../../src/gemma4/graph/steps.js";
import type { Role, Weight } from "../../src/gemma4/types.js";

/** What the input of each kind of matrix is called, by the first matrix that reads it. */
const NAMES: Readonly<Partial<Record<Role, string>>> = {
  ple_projection: "per_layer",
  q_proj: "attention",
  o_proj: "attention.output",
  ffn_gate: "mlp",
  ffn_down: "mlp.down",
  router: "router",
  experts_gate_up: "experts",
  experts_down: "experts.down",
  ple_gate: "per_layer",
  ple_layer_projection: "per_layer.projection",
  head: "head",
};

/** An input of some matrices. */
export interface MatrixInput {
  /** Stable name, such as `layers.3.mlp.down`. */
  readonly name: string;
  readonly weights: readonly Weight[];
  readonly columns: number;
  /** 0 for anything but experts. */
  readonly experts: number;
}

/** The input that was looked at. */
export function matrixInput({ layer, weights = [] }: Observed): MatrixInput {
  const [first] = weights;
  const kind = first && NAMES[first.role];
  if (first === undefined || kind === undefined) {
    throw new RangeError(`no name is known for what ${first?.name ?? "nothing"} reads`);
  }
  return {
    name: layer === null ? kind : `layers.${layer}.${kind}`,
    weights,
    columns: first.shape.at(-1)!,
    experts: first.shape.length === 3 ? first.shape[0]! : 0,
  };
}

/** A probe that adds nothing and notes the inputs of a step. */
export function notingProbe(inputs: MatrixInput[]): Probe {
  return {
    input: (_builder, observed) => {
      inputs.push(matrixInput(observed));
      return [];
    },
    expert: (_builder, observed) => {
      inputs.push(matrixInput(observed));
      return [];
    },
  };
}
