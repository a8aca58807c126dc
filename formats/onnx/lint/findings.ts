import type { Scope } from "../scopes.js";

export type Severity = "error" | "warning";

/**
 * Every rule: an error where ONNX or ONNX Runtime 1.30 (its CPU provider, its Node binding) refuses the model,
 * crashes or computes something else, a warning where it loads and is likely not what was wanted.
 */
export const RULES = {
  opset: ["error", "Convert the model with onnx.version_converter, or export it again."],
  "ir-version": ["error", "Convert the model with onnx.version_converter, or export it again."],
  "ir-opset": [
    "warning",
    "Write the IR version that came with the opset; other readers may refuse the model.",
  ],
  domain: ["error", "Import the domain of the operator, or use the domain that has it."],
  "domain-import": ["warning", "Import com.microsoft version 1; other readers may refuse the model."],
  "undefined-value": ["error", "Name an input, an initializer or the output of a node."],
  "value-twice": ["error", "Give every value a name of its own."],
  "node-order": ["error", "Sort the nodes so that each comes behind those whose outputs it takes."],
  "node-name": ["error", "Give every node a name of its own, or none."],
  "attribute-type": ["error", "Set the field that the type names, and no other."],
  "attribute-twice": ["error", "Keep one of them."],
  "border-type": ["error", "Cast inside the graph, and keep FLOAT or FLOAT16 at its inputs and outputs."],
  "cache-name": ["error", "Name them past_key_values.N.key and past_key_values.N.value, from 0 on."],
  "cache-gap": ["error", "Number the caches by the layers that own one, from 0 without gaps."],
  "cache-pair": ["error", "Every cache has a key and a value."],
  "cache-shape": ["error", "Give [batch, heads, past length, head size], heads and head size as numbers."],
  "cache-present": ["error", "Every cache that goes in comes out: add the output."],
  "gqa-present": ["error", "Declare both present outputs, also where nothing reads them."],
  "gqa-left-padding": ["warning", "Give attention_bias, 0 or a large negative number from the mask."],
  "weight-attribute": ["error", "Quantize the weight again: to 2, 4 or 8 bits in blocks of 16 to 256."],
  "weight-shape": ["error", "Quantize the weight again; its parts do not belong together."],
  "zero-point-type": ["error", "Store zero points as packed UINT8, or leave them out."],
  "float-zero-point": ["warning", "Store zero points as packed UINT8, unless the fractions are worth it."],
  "scale-type": ["error", "Put a Cast between the scales and the node: it costs nothing at run time."],
  "accuracy-level": ["warning", "Set accuracy_level to 4 where speed counts, and measure what it costs."],
  "moe-activation": ["warning", "Compute the experts with plain operators until a release has GeGLU."],
  "moe-block": [
    "warning",
    "Choose a block size that divides the rows; only the CPU provider is known to pad the last block.",
  ],
  "dequantize-2-bit": ["error", "Use MatMulNBits, or pad the weight to a multiple of 4 columns."],
  "data-file-size": ["warning", "Spread the data over files of less than 2^31 bytes."],
  "data-file-count": ["warning", "Write fewer, larger data files."],
} as const satisfies Record<string, readonly [severity: Severity, advice: string]>;

export type Rule = keyof typeof RULES;

/** Something about a model that is wrong or doubtful. */
export interface Finding {
  readonly rule: Rule;
  readonly severity: Severity;
  /** Name of the node, its place when it has none (`graph.node[3]`), or null for the model as a whole. */
  readonly node: string | null;
  readonly message: string;
  /** What to do about it: one sentence. */
  readonly advice: string;
}

/** Findings of one rule that are kept; a faulty exporter makes the same mistake at every node. Real: 500. */
const MAX_PER_RULE = 1000;

/** Characters of a name that are kept. Real: 100, from PyTorch's scopes. */
const MAX_NAME = 200;

/** A name from the file, cut short. */
function cut(name: string): string {
  return name.length > MAX_NAME ? `${name.slice(0, MAX_NAME)}…` : name;
}

/** What findings call a node. */
export function nodeLabel({ nodes, path }: Scope, index: number): string {
  const name = nodes[index]?.name ?? "";
  return name === "" ? `${path}.node[${index}]` : cut(name);
}

/** Collects what rules find, in the order in which it is found. */
export class Findings {
  readonly #found: Finding[] = [];
  readonly #counts = new Map<Rule, number>();

  /** @param message one sentence that says what was found and what was expected */
  add(rule: Rule, node: string | null, message: string): void {
    const count = (this.#counts.get(rule) ?? 0) + 1;
    this.#counts.set(rule, count);
    if (count <= MAX_PER_RULE) this.#push(rule, node, message);
  }

  #push(rule: Rule, node: string | null, message: string): void {
    const [severity, advice] = RULES[rule];
    this.#found.push({ rule, severity, node, message, advice });
  }

  /** All findings; of a rule that found too many, how many are left out comes last. */
  finish(): readonly Finding[] {
    for (const [rule, count] of this.#counts) {
      if (count > MAX_PER_RULE) this.#push(rule, null, `${count - MAX_PER_RULE} more are left out.`);
    }
    return this.#found;
  }
}
