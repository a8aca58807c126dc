import type { InputGradients, Place, Rule } from "../place.js";

/*
 * y = f(a, b) element by element. Either side may be repeated to the other's shape, so that its gradient is summed.
 */

/** Gradients of both sides, before what broadcasting repeated is summed. */
function ofBoth(place: Place, left: () => string, right: () => string): InputGradients {
  return [left, right].map((make, index) =>
    place.wanted(index, () => place.reducedTo(place.input(index), make())),
  );
}

function add(place: Place): InputGradients {
  const g = (): string => place.gradient;
  return ofBoth(place, g, g);
}

function subtract(place: Place): InputGradients {
  const g = place.gradient;
  return ofBoth(
    place,
    () => g,
    () => place.add("Neg", [g]),
  );
}

function multiply(place: Place): InputGradients {
  const g = place.gradient;
  return ofBoth(
    place,
    () => place.multiply(g, place.input(1)),
    () => place.multiply(g, place.input(0)),
  );
}

/** a / b: g / b, and −g · y / b */
function divide(place: Place): InputGradients {
  const part = place.add("Div", [place.gradient, place.input(1)]);
  return ofBoth(
    place,
    () => part,
    () => place.add("Neg", [place.multiply(part, place.output())]),
  );
}

/** a ^ b for a constant b: g · b · a ^ (b − 1) */
function power(place: Place): InputGradients {
  if (place.needs(1)) throw place.error("has an exponent whose gradient is wanted, expected a constant one");
  const exponent = place.input(1);
  const less = place.add("Sub", [exponent, place.add("CastLike", [place.number(1), exponent])]);
  const slope = place.add("Mul", [place.add("Pow", [place.input(0), less]), exponent]);
  return [place.reducedTo(place.input(0), place.multiply(place.gradient, slope))];
}

function sum(place: Place): InputGradients {
  return place.node.input.map((input, index) =>
    place.wanted(index, () => place.reducedTo(input, place.gradient)),
  );
}

/** Where(c, a, b): to each side what came from it. */
function where(place: Place): InputGradients {
  const g = place.gradient;
  const zero = place.add("CastLike", [place.number(0), g]);
  const condition = place.input(0);
  return [
    undefined,
    place.wanted(1, () => place.reducedTo(place.input(1), place.add("Where", [condition, g, zero]))),
    place.wanted(2, () => place.reducedTo(place.input(2), place.add("Where", [condition, zero, g]))),
  ];
}

export const ARITHMETIC: Readonly<Record<string, Rule>> = {
  Add: add,
  Sub: subtract,
  Mul: multiply,
  Div: divide,
  Pow: power,
  Sum: sum,
  Where: where,
};
