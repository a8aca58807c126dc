import { isMicrosoft, type Scope } from "../scopes.js";
import { type Findings, nodeLabel } from "./findings.js";

/** Where GroupQueryAttention takes what is added to the scores. */
const BIAS_INPUT = 10;

/**
 * GroupQueryAttention: without present outputs the CPU provider ignores the past, or crashes where keys and
 * values are those of another layer. It counts the tokens of a row from its start, so that padding on the left
 * needs a bias.
 *
 * @param padsLeft whether rows of a batch are padded on the left where the model is used
 */
export function lintAttention(scope: Scope, padsLeft: boolean, findings: Findings): void {
  for (const [index, node] of scope.nodes.entries()) {
    if (!isMicrosoft(node, "GroupQueryAttention")) continue;
    const label = nodeLabel(scope, index);
    const missing = ["", "present_key", "present_value"].filter(
      (name, output) => name !== "" && (node.output[output] ?? "") === "",
    );
    if (missing.length > 0) {
      findings.add("gqa-present", label, `GroupQueryAttention has no output ${missing.join(" and no ")}.`);
    }
    if (padsLeft && (node.input[BIAS_INPUT] ?? "") === "") {
      const message = "GroupQueryAttention has no attention_bias: batches padded on the left come out wrong.";
      findings.add("gqa-left-padding", label, message);
    }
  }
}
