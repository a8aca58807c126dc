import { attr } from "../../build.js";
import { floatAttribute, intAttribute } from "../../scopes.js";
import { MICROSOFT_DOMAIN } from "../../versions.js";
import type { InputGradients, Place, Rule } from "../place.js";

/** What is added to scores of keys that a query does not see. */
const HIDDEN = -1e9;

/** Turns each pair by an angle; the gradient is turned back, by the same angle the other way. */
function rotaryEmbedding(place: Place): InputGradients {
  for (const index of [1, 2, 3]) {
    if (place.needs(index)) throw place.error("has angles whose gradient is wanted, expected constant ones");
  }
  if (floatAttribute(place.node, "scale", 1) !== 1) throw place.error("has a scale, expected none");
  const [positions, cosines, sines] = [place.input(1), place.input(2), place.input(3)];
  const attributes = Object.fromEntries(place.node.attribute.map(({ name, ...value }) => [name, value]));
  const inputs = [place.gradient, positions, cosines, place.add("Neg", [sines])];
  return [place.add("RotaryEmbedding", inputs, attributes, MICROSOFT_DOMAIN)];
}

/** Places of the inputs of GroupQueryAttention. */
const INPUT = { query: 0, key: 1, value: 2, pastKey: 3, pastValue: 4, bias: 10 } as const;
/** Places of its outputs. */
const OUTPUT = { heads: 0, key: 1, value: 2 } as const;

/** Attributes that change what is computed, and the only value of each that is known here. */
const PLAIN: Readonly<Record<string, number>> = {
  causal: 1,
  do_rotary: 0,
  rotary_interleaved: 0,
  smooth_softmax: 0,
  sliding_window_cache: 0,
  qk_output: 0,
  kv_cache_bit_width: 0,
};

/** Sizes of attention and the shapes that go with them. */
interface Heads {
  readonly kvHeads: number;
  /** Queries for each key. */
  readonly group: number;
}

function headsOf(place: Place): Heads {
  const { node } = place;
  const [heads, kvHeads] = [intAttribute(node, "num_heads", NaN), intAttribute(node, "kv_num_heads", NaN)];
  if (!(kvHeads > 0) || heads % kvHeads !== 0) {
    throw place.error(`has ${heads} heads for ${kvHeads} of keys, expected a multiple`);
  }
  return { kvHeads, group: heads / kvHeads };
}

function checkPlain(place: Place): void {
  const { node } = place;
  for (const [name, value] of Object.entries(PLAIN)) {
    const found = intAttribute(node, name, value);
    if (found !== value) throw place.error(`has ${name} ${found}, expected ${value}`);
  }
  if (!place.has(INPUT.key) || !place.has(INPUT.value)) {
    throw place.error("has queries, keys and values in one, expected them apart");
  }
  if (floatAttribute(node, "softcap", 0) !== 0) throw place.error("has a soft cap, expected none");
  if (floatAttribute(node, "scale", 0) === 0) throw place.error("has no scale, expected one");
  for (let index = 0; index < place.inputs; index++) {
    const known = index <= 6 || index === 9 || index === INPUT.bias;
    if (!known && place.has(index)) throw place.error(`has an input ${index}, expected none`);
  }
  if (place.needs(INPUT.bias))
    throw place.error("has a bias whose gradient is wanted, expected a constant one");
}

/** [batch, sequence, heads · size] to [batch, kvHeads, group · sequence, size]. */
function gathered(place: Place, x: string, { kvHeads, group }: Heads): string {
  const apart = place.add("Reshape", [x, place.integers(0, 0, kvHeads, group, -1)]);
  const turned = place.add("Transpose", [apart], { perm: attr.ints([0, 2, 3, 1, 4]) });
  return place.reshape(turned, stacked(place, turned));
}

/** The shape of [batch, kvHeads, group, sequence, …] with groups and sequence in one. */
function stacked(place: Place, value: string): string {
  const [outer, last] = [place.add("Shape", [value], { end: attr.int(2) }), lastSize(place, value)];
  const inner = place.add("Shape", [value], { start: attr.int(2), end: attr.int(4) });
  const rows = place.add("ReduceProd", [inner], { keepdims: attr.int(1) });
  return place.add("Concat", [outer, rows, last], { axis: attr.int(0) });
}

function lastSize(place: Place, value: string): string {
  return place.add("Shape", [value], { start: attr.int(-1) });
}

/** The way back of `gathered`. */
function ungathered(place: Place, x: string, like: string, { kvHeads, group }: Heads): string {
  const apart = place.add("Reshape", [x, groupedShape(place, x, { kvHeads, group })]);
  const turned = place.add("Transpose", [apart], { perm: attr.ints([0, 3, 1, 2, 4]) });
  return place.shapedLike(turned, like);
}

/** [batch, kvHeads, group · sequence, size] to the shape [batch, kvHeads, group, sequence, size]. */
function groupedShape(place: Place, x: string, { kvHeads, group }: Heads): string {
  const batch = place.add("Shape", [x], { end: attr.int(1) });
  const size = lastSize(place, x);
  return place.add("Concat", [batch, place.integers(kvHeads, group, -1), size], { axis: attr.int(0) });
}

/** [sequence, total]: 0 where a query sees a key, which is neither behind it nor out of its window. */
function sight(place: Place, sequence: string, total: string): string {
  const list = (count: string): string =>
    place.add("Range", [place.integer(0), place.add("Squeeze", [count]), place.integer(1)]);
  const past = place.add("Sub", [total, sequence]);
  const queries = place.add("Unsqueeze", [place.plus(list(sequence), past), place.integers(1)]);
  const keys = place.add("Unsqueeze", [list(total), place.integers(0)]);
  const window = intAttribute(place.node, "local_window_size", -1);
  const before = place.add("LessOrEqual", [keys, queries]);
  const near = (): string => place.add("Greater", [keys, place.add("Sub", [queries, place.integer(window)])]);
  const seen = window > 0 ? place.add("And", [before, near()]) : before;
  return place.add("Where", [seen, place.number(0), place.number(HIDDEN)]);
}

/** softmax(scale · q · kᵀ + bias), computed again: [batch, kvHeads, group · sequence, total]. */
function probabilities(place: Place, q: string, k: string, heads: Heads): string {
  const scale = floatAttribute(place.node, "scale", 1);
  const scores = place.product(q, k, { transB: true, alpha: scale });
  const apart = place.add("Reshape", [scores, groupedShape(place, scores, heads)]);
  const sequence = place.add("Shape", [place.input(INPUT.query)], { start: attr.int(1), end: attr.int(2) });
  const hidden = place.plus(apart, sight(place, sequence, lastSize(place, scores)));
  const biased = place.has(INPUT.bias) ? place.plus(hidden, perGroup(place, heads)) : hidden;
  const softened = place.add("Softmax", [biased], { axis: attr.int(-1) });
  return place.shapedLike(softened, scores);
}

/** The bias, [batch or 1, heads or 1, sequence, total], with its heads apart. */
function perGroup(place: Place, { kvHeads, group }: Heads): string {
  const bias = place.input(INPUT.bias);
  const [batch, sizes] = [
    place.add("Shape", [bias], { end: attr.int(1) }),
    place.add("Shape", [bias], { start: attr.int(2) }),
  ];
  const shape = [batch, place.integers(kvHeads, group), sizes];
  const heads = place.add("Concat", [batch, place.integers(kvHeads * group), sizes], { axis: attr.int(0) });
  const whole = place.add("Expand", [bias, heads]);
  return place.add("Reshape", [whole, place.add("Concat", shape, { axis: attr.int(0) })]);
}

/** Parts of a gradient of all keys, [batch, kvHeads, total, size]: those of the past, and the others as they came in. */
function apart(place: Place, gradient: string, past: number, own: number): readonly [string, string] {
  const before = place.has(past)
    ? place.add("Shape", [place.input(past)], { start: attr.int(2), end: attr.int(3) })
    : place.integers(0);
  const total = place.add("Shape", [gradient], { start: attr.int(2), end: attr.int(3) });
  const sizes = place.add("Concat", [before, place.add("Sub", [total, before])], { axis: attr.int(0) });
  const [older, newer] = place.addMany("Split", [gradient, sizes], 2, { axis: attr.int(2) });
  const turned = place.add("Transpose", [newer!], { perm: attr.ints([0, 2, 1, 3]) });
  return [older!, place.shapedLike(turned, place.input(own))];
}

/**
 * softmax(scale · q · kᵀ + bias) · v with shared keys, of all tokens so far, past included. With p for the softmax, o
 * for what is given, and g for its gradient: v gets pᵀ · g, the scores s = p ⊙ (g · vᵀ − Σ g ⊙ o), q gets scale · s · k
 * and k scale · sᵀ · q. Scores are computed again, since the operator keeps none. All rows of the batch are taken to be
 * of full length: padding is known by the bias alone.
 */
function groupQueryAttention(place: Place): InputGradients {
  checkPlain(place);
  const heads = headsOf(place);
  const scale = floatAttribute(place.node, "scale", 1);
  const [key, value] = [place.output(OUTPUT.key), place.output(OUTPUT.value)];
  const result: (string | undefined)[] = [];
  const ofKeys = [place.gradientOf(OUTPUT.key)];
  const ofValues = [place.gradientOf(OUTPUT.value)];
  const needsKeys = place.needs(INPUT.key) || place.needs(INPUT.pastKey);
  const needsValues = place.needs(INPUT.value) || place.needs(INPUT.pastValue);
  if (place.gradientOf(OUTPUT.heads) !== undefined) {
    const q = gathered(place, place.input(INPUT.query), heads);
    const g = gathered(place, place.gradient, heads);
    const o = gathered(place, place.output(OUTPUT.heads), heads);
    const p = probabilities(place, q, key, heads);
    if (needsValues) ofValues.push(place.product(p, g, { transA: true }));
    if (needsKeys || place.needs(INPUT.query)) {
      const direct = place.product(g, value, { transB: true });
      const mean = place.sum(place.multiply(g, o), -1);
      const s = place.multiply(p, place.add("Sub", [direct, mean]));
      if (needsKeys) ofKeys.push(place.product(s, q, { transA: true, alpha: scale }));
      result[INPUT.query] = place.wanted(INPUT.query, () =>
        ungathered(place, place.product(s, key, { alpha: scale }), place.input(INPUT.query), heads),
      );
    }
  }
  const hand = (gradients: readonly (string | undefined)[], past: number, own: number): void => {
    const known = gradients.filter((each) => each !== undefined);
    if (known.length === 0) return;
    const [older, newer] = apart(place, place.add("Sum", known), past, own);
    result[past] = place.wanted(past, () => older);
    result[own] = place.wanted(own, () => newer);
  };
  if (needsKeys) hand(ofKeys, INPUT.pastKey, INPUT.key);
  if (needsValues) hand(ofValues, INPUT.pastValue, INPUT.value);
  return result;
}

export const ATTENTION: Readonly<Record<string, Rule>> = {
  "com.microsoft.RotaryEmbedding": rotaryEmbedding,
  "com.microsoft.GroupQueryAttention": groupQueryAttention,
};
