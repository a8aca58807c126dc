import { attr } from "../../build.js";
import { intAttribute, textAttribute } from "../../scopes.js";
import type { InputGradients, Place, Rule } from "../place.js";

/** y = f(x) with the slope f′, of x and y. */
function unary(slope: (place: Place, x: string, y: string) => string): Rule {
  return (place) => [place.multiply(place.gradient, slope(place, place.input(0), place.output()))];
}

/** 1 − y² */
function tanhSlope(place: Place, _x: string, y: string): string {
  return place.add("Sub", [place.number(1), place.multiply(y, y)]);
}

/** 1 / 2y */
function sqrtSlope(place: Place, _x: string, y: string): string {
  return place.add("Div", [place.number(0.5), y]);
}

/** −y² */
function reciprocalSlope(place: Place, _x: string, y: string): string {
  return place.add("Neg", [place.multiply(y, y)]);
}

/** 2 / √π · exp(−x²) */
function erfSlope(place: Place, x: string): string {
  const bell = place.add("Exp", [place.add("Neg", [place.multiply(x, x)])]);
  return place.multiply(bell, place.number(2 / Math.sqrt(Math.PI)));
}

/** y · (1 − y) */
function sigmoidSlope(place: Place, _x: string, y: string): string {
  return place.multiply(y, place.add("Sub", [place.number(1), y]));
}

function sineSlope(place: Place, x: string): string {
  return place.add("Cos", [x]);
}

function cosineSlope(place: Place, x: string): string {
  return place.add("Neg", [place.add("Sin", [x])]);
}

/** Φ(x) + x · φ(x), with the distribution Φ and the density φ of a normal variable. */
function exactGeluSlope(place: Place, x: string): string {
  const half = place.number(0.5);
  const erf = place.add("Erf", [place.multiply(x, place.number(Math.SQRT1_2))]);
  const distribution = place.plus(place.multiply(erf, half), half);
  const bell = place.add("Exp", [place.multiply(x, x, place.number(-0.5))]);
  const density = place.multiply(bell, place.number(1 / Math.sqrt(2 * Math.PI)));
  return place.plus(distribution, place.multiply(x, density));
}

/** Of the approximation by tanh: the factor of x³. */
const CUBIC = 0.044715;

/**
 * x · σ(v) with v = √(8/π) · (x + 0.044715 x³), which is x/2 · (1 + tanh(v / 2)): σ + x · σ · (1 − σ) · v′. All of it
 * is in terms of x², so that no more than nine passes go over the values.
 */
function tanhGeluSlope(place: Place, x: string): string {
  const scale = Math.sqrt(8 / Math.PI);
  const square = place.multiply(x, x);
  const polynomial = (first: number, second: number): string =>
    place.plus(place.multiply(square, place.number(second)), place.number(first));
  const sigmoid = place.add("Sigmoid", [place.multiply(x, polynomial(scale, scale * CUBIC))]);
  const slope = polynomial(scale, 3 * scale * CUBIC);
  const rest = place.add("Sub", [place.number(1), sigmoid]);
  const inner = place.plus(place.multiply(x, slope, rest), place.number(1));
  return place.multiply(sigmoid, inner);
}

function gelu(place: Place): InputGradients {
  const approximate = textAttribute(place.node, "approximate") ?? "none";
  if (approximate === "tanh") return unary(tanhGeluSlope)(place);
  if (approximate === "none") return unary(exactGeluSlope)(place);
  throw place.error(`has the approximation ${approximate}, expected none or tanh`);
}

function fastGelu(place: Place): InputGradients {
  if (place.has(1)) throw place.error("has a bias, expected none");
  return unary(tanhGeluSlope)(place);
}

/** y ⊙ (g − Σ g ⊙ y) along the axis. */
function softmax(place: Place): InputGradients {
  const [y, g] = [place.output(), place.gradient];
  const axis = intAttribute(place.node, "axis", -1);
  const mean = place.sum(place.multiply(g, y), axis);
  return [place.multiply(y, place.add("Sub", [g, mean]))];
}

/** g − exp(y) · Σ g along the axis. */
function logSoftmax(place: Place): InputGradients {
  const [y, g] = [place.output(), place.gradient];
  const sum = place.sum(g, intAttribute(place.node, "axis", -1));
  return [place.add("Sub", [g, place.multiply(place.add("Exp", [y]), sum)])];
}

function cast(place: Place): InputGradients {
  return [place.add("CastLike", [place.gradient, place.input(0)], { saturate: attr.int(1) })];
}

export const ACTIVATIONS: Readonly<Record<string, Rule>> = {
  Neg: (place) => [place.add("Neg", [place.gradient])],
  Abs: unary((place, x) => place.add("Sign", [x])),
  Exp: unary((_place, _x, y) => y),
  Log: unary((place, x) => place.add("Reciprocal", [x])),
  Sqrt: unary(sqrtSlope),
  Reciprocal: unary(reciprocalSlope),
  Sin: unary(sineSlope),
  Cos: unary(cosineSlope),
  Tanh: unary(tanhSlope),
  Sigmoid: unary(sigmoidSlope),
  Erf: unary(erfSlope),
  Gelu: gelu,
  "com.microsoft.FastGelu": fastGelu,
  Softmax: softmax,
  LogSoftmax: logSoftmax,
  Cast: cast,
  Identity: (place) => [place.gradient],
};
