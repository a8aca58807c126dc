import { floatAttribute, intAttribute } from "../../scopes.js";
import type { InputGradients, Place, Rule } from "../place.js";

interface Product {
  readonly transA: boolean;
  readonly transB: boolean;
  readonly alpha: number;
}

function productOf({ node }: Place): Product {
  return {
    transA: intAttribute(node, "transA", 0) !== 0,
    transB: intAttribute(node, "transB", 0) !== 0,
    alpha: floatAttribute(node, "alpha", 1),
  };
}

/** Of a in α · op(a) · op(b): g · op(b)ᵀ, or turned round where a is. */
function ofLeft(place: Place, { transA, transB, alpha }: Product): string {
  const [g, b] = [place.gradient, place.input(1)];
  return transA
    ? place.product(b, g, { transA: transB, transB: true, alpha })
    : place.product(g, b, { transB: !transB, alpha });
}

/** Of b: op(a)ᵀ · g, or turned round where b is. */
function ofRight(place: Place, { transA, transB, alpha }: Product): string {
  const [a, g] = [place.input(0), place.gradient];
  return transB
    ? place.product(g, a, { transA: true, transB: transA, alpha })
    : place.product(a, g, { transA: !transA, alpha });
}

/** Of matrices, or stacks of them of which one may be repeated for the other; not of vectors. */
function matMul(place: Place): InputGradients {
  const product = productOf(place);
  return [
    place.wanted(0, () => place.reducedTo(place.input(0), ofLeft(place, product))),
    place.wanted(1, () => place.reducedTo(place.input(1), ofRight(place, product))),
  ];
}

function fusedMatMul(place: Place): InputGradients {
  for (const name of ["transBatchA", "transBatchB"]) {
    if (intAttribute(place.node, name, 0) !== 0) throw place.error(`has ${name}, expected none`);
  }
  return matMul(place);
}

/** α · op(a) · op(b) + β · c, of two dimensions. */
function gemm(place: Place): InputGradients {
  const product = productOf(place);
  const beta = floatAttribute(place.node, "beta", 1);
  return [
    place.wanted(0, () => ofLeft(place, product)),
    place.wanted(1, () => ofRight(place, product)),
    place.wanted(2, () => {
      const scaled = beta === 1 ? place.gradient : place.multiply(place.gradient, place.number(beta));
      return place.reducedTo(place.input(2), scaled);
    }),
  ];
}

export const PRODUCTS: Readonly<Record<string, Rule>> = {
  MatMul: matMul,
  "com.microsoft.FusedMatMul": fusedMatMul,
  Gemm: gemm,
};
