import { ACTIVATIONS } from "./rules/activations.js";
import { ARITHMETIC } from "./rules/arithmetic.js";
import { ATTENTION } from "./rules/attention.js";
import { MOVES } from "./rules/moves.js";
import { NORMS } from "./rules/norms.js";
import { PRODUCTS } from "./rules/products.js";
import { REDUCTIONS } from "./rules/reductions.js";
import type { Rule } from "./place.js";

/** By operator, with the domain in front where it is not ONNX's own. */
export const RULES: ReadonlyMap<string, Rule> = new Map(
  [ACTIVATIONS, ARITHMETIC, ATTENTION, MOVES, NORMS, PRODUCTS, REDUCTIONS].flatMap((rules) =>
    Object.entries(rules),
  ),
);

/** Operators of ONNX itself whose outputs do not change when their inputs do so by little. */
export const NOT_DIFFERENTIABLE: ReadonlySet<string> = new Set([
  "ArgMax",
  "ArgMin",
  "Ceil",
  "Equal",
  "Floor",
  "Greater",
  "GreaterOrEqual",
  "IsInf",
  "IsNaN",
  "Less",
  "LessOrEqual",
  "NonZero",
  "Not",
  "Round",
  "Shape",
  "Sign",
  "Size",
]);
