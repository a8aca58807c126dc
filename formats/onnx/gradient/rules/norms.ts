import { attr } from "../../build.js";
import { floatAttribute, intAttribute } from "../../scopes.js";
import type { InputGradients, Place, Rule } from "../place.js";

/** What both operators take where the node does not say. */
const EPSILON = 1e-5;

/**
 * y = x · r · w with r = 1 / √(mean x² + ε) over the last dimension: for x it is r · (h − x · r² · mean(h ⊙ x)) with
 * h = g ⊙ w, and for w the sum of g ⊙ x · r.
 */
function rmsNorm(place: Place): InputGradients {
  if (intAttribute(place.node, "axis", -1) !== -1) {
    throw place.error("is not over the last dimension, expected axis -1");
  }
  const [x, weight, g] = [place.input(0), place.input(1), place.gradient];
  const mean = (value: string): string =>
    place.add("ReduceMean", [value, place.integers(-1)], { keepdims: attr.int(1) });
  const epsilon = place.number(floatAttribute(place.node, "epsilon", EPSILON));
  const root = place.add("Sqrt", [place.plus(mean(place.multiply(x, x)), epsilon)]);
  const r = place.add("Reciprocal", [root]);
  const ofX = (): string => {
    const h = place.multiply(g, weight);
    const along = place.multiply(mean(place.multiply(h, x)), place.multiply(r, r));
    return place.multiply(place.add("Sub", [h, place.multiply(x, along)]), r);
  };
  return [place.wanted(0, ofX), place.wanted(1, () => place.reducedTo(weight, place.multiply(g, x, r)))];
}

export const NORMS: Readonly<Record<string, Rule>> = {
  SimplifiedLayerNormalization: rmsNorm,
  RMSNormalization: rmsNorm,
};
