import { attr } from "../../build.js";
import { intAttribute, intsAttribute } from "../../scopes.js";
import type { InputGradients, Place, Rule } from "../place.js";

/*
 * Operators that give their input's own values, in another shape, order or choice.
 */

function reshaped(place: Place): InputGradients {
  return [place.shapedLike(place.gradient, place.input(0))];
}

function transpose(place: Place): InputGradients {
  const order = intsAttribute(place.node, "perm");
  // Without an order, all dimensions are turned round, and so they are on the way back.
  if (order === undefined) return [place.add("Transpose", [place.gradient])];
  const back = order.map((_, index) => order.indexOf(index));
  return [place.add("Transpose", [place.gradient], { perm: attr.ints(back) })];
}

/** Sizes along an axis of some values, as a list. */
function sizesAlong(place: Place, values: readonly string[], axis: number): string {
  const sizes = values.map((value) =>
    place.add("Gather", [place.shape(value), place.integers(axis)], { axis: attr.int(0) }),
  );
  return place.add("Concat", sizes, { axis: attr.int(0) });
}

function concat(place: Place): InputGradients {
  const axis = intAttribute(place.node, "axis", NaN);
  const { input } = place.node;
  const sizes = sizesAlong(place, input, axis);
  const parts = place.addMany("Split", [place.gradient, sizes], input.length, { axis: attr.int(axis) });
  return parts.map((part, index) => (place.needs(index) ? part : undefined));
}

function split(place: Place): InputGradients {
  const axis = intAttribute(place.node, "axis", 0);
  const parts = place.node.output.map((output, index) => {
    const gradient = place.gradientOf(index);
    if (gradient !== undefined) return gradient;
    if (output === "") throw place.error(`does not name its output ${index}, expected all to have names`);
    return zerosLike(place, output);
  });
  return [place.add("Concat", parts, { axis: attr.int(axis) })];
}

/**
 * Of an operator that chooses values: the places of the chosen ones are found by letting the same operator choose
 * among the numbers 0, 1, …, and there the gradients are added.
 */
function chosen(place: Place): InputGradients {
  const { node, gradient } = place;
  const data = place.input(0);
  const count = place.add("Size", [data]);
  const flat = place.add("Range", [place.integer(0), count, place.integer(1)]);
  const places = place.shapedLike(flat, data);
  const attributes = Object.fromEntries(node.attribute.map(({ name, ...value }) => [name, value]));
  const found = place.add(node.opType, [places, ...node.input.slice(1)], attributes);
  const zero = place.add("CastLike", [place.number(0), gradient]);
  const zeros = place.add("Expand", [zero, place.reshape(count, place.integers(1))]);
  const list = (value: string): string => place.add("Reshape", [value, place.integers(-1)]);
  const sums = place.add("ScatterElements", [zeros, list(found), list(gradient)], {
    axis: attr.int(0),
    reduction: attr.string("add"),
  });
  return [place.shapedLike(sums, data)];
}

/** Rows of which each is chosen by a list of places: its gradient is added there. */
function gatherND(place: Place): InputGradients {
  if (intAttribute(place.node, "batch_dims", 0) !== 0) return chosen(place);
  const zeros = zerosLike(place, place.input(0));
  return [place.add("ScatterND", [zeros, place.input(1), place.gradient], { reduction: attr.string("add") })];
}

/** The largest values along an axis: each gets its gradient back at the place that it had. */
function topK(place: Place): InputGradients {
  const zeros = zerosLike(place, place.input(0));
  return [
    place.add("ScatterElements", [zeros, place.output(1), place.gradient], {
      axis: attr.int(intAttribute(place.node, "axis", -1)),
      reduction: attr.string("add"),
    }),
  ];
}

function zerosLike(place: Place, value: string): string {
  const zero = place.add("CastLike", [place.number(0), value]);
  return place.add("Expand", [zero, place.shape(value)]);
}

export const MOVES: Readonly<Record<string, Rule>> = {
  Reshape: reshaped,
  Squeeze: reshaped,
  Unsqueeze: reshaped,
  Flatten: reshaped,
  Expand: (place) => [place.reducedTo(place.input(0), place.gradient)],
  Transpose: transpose,
  Concat: concat,
  Split: split,
  Slice: chosen,
  Gather: chosen,
  GatherElements: chosen,
  GatherND: gatherND,
  TopK: topK,
};
