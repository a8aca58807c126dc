import { intAttribute } from "../../scopes.js";
import type { InputGradients, Place, Rule } from "../place.js";

/** The gradient of a sum, repeated to the shape of what was summed. */
function repeated(place: Place): string {
  const { node, gradient } = place;
  if (!place.has(1) && intAttribute(node, "noop_with_empty_axes", 0) !== 0) {
    throw place.error("has no axes and an attribute that then nothing is reduced, expected axes");
  }
  const kept = intAttribute(node, "keepdims", 1) === 1;
  const apart = kept || !place.has(1) ? gradient : place.add("Unsqueeze", [gradient, place.input(1)]);
  return place.add("Expand", [apart, place.shape(place.input(0))]);
}

function reduceMean(place: Place): InputGradients {
  const whole = repeated(place);
  const [all, left] = [place.add("Size", [place.input(0)]), place.add("Size", [place.output()])];
  const count = place.add("CastLike", [place.add("Div", [all, left]), whole]);
  return [place.add("Div", [whole, count])];
}

/** Σ x²: 2 x · g */
function reduceSumSquare(place: Place): InputGradients {
  return [place.multiply(place.input(0), repeated(place), place.number(2))];
}

export const REDUCTIONS: Readonly<Record<string, Rule>> = {
  ReduceSum: (place) => [repeated(place)],
  ReduceMean: reduceMean,
  ReduceSumSquare: reduceSumSquare,
};
