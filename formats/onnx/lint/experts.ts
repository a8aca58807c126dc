import { shown } from "../../errors.js";
import { intAttribute, isMicrosoft, type Scope, textAttribute } from "../scopes.js";
import type { NodeProto } from "../types.js";
import { type Findings, nodeLabel } from "./findings.js";

/** Activations of the fused operators, none of which is Gemma's gelu(gate) · up. `relu` is the default. */
const NOT_GATED_GELU: ReadonlySet<string> = new Set(["relu", "gelu", "silu", "identity", "swiglu"]);

/** Inputs of a QMoE that are weights: [experts, rows, packed columns]. */
const WEIGHTS: readonly (readonly [name: string, input: number])[] = [
  ["fc1", 2],
  ["fc2", 5],
  ["fc3", 8],
];

function lintBlocks(scope: Scope, node: NodeProto, label: string, findings: Findings): void {
  const block = intAttribute(node, "block_size", 0);
  const bits = intAttribute(node, "expert_weight_bits", 4);
  // Without a block size every row has one scale.
  if (!Number.isSafeInteger(block) || block <= 0 || ![2, 4, 8].includes(bits)) return;
  for (const [name, input] of WEIGHTS) {
    const dims = scope.constant(node.input[input] ?? "")?.tensor.dims;
    if (dims?.length !== 3) continue;
    const columns = (dims[2]! * 8) / bits;
    if (columns % block === 0) continue;
    const message = `QMoE has rows of ${columns} in ${name}, expected a multiple of block_size ${block}.`;
    findings.add("moe-block", label, message);
  }
}

/** Fused experts: their activation, and blocks that divide the rows of QMoE. */
export function lintExperts(scope: Scope, findings: Findings): void {
  for (const [index, node] of scope.nodes.entries()) {
    const quantized = isMicrosoft(node, "QMoE");
    if (!quantized && !isMicrosoft(node, "MoE")) continue;
    const label = nodeLabel(scope, index);
    const activation = textAttribute(node, "activation_type") ?? "relu";
    if (NOT_GATED_GELU.has(activation)) {
      const message = `${node.opType} has the activation ${shown(activation)}, which is not Gemma's gated GELU.`;
      findings.add("moe-activation", label, message);
    }
    if (quantized) lintBlocks(scope, node, label, findings);
  }
}
