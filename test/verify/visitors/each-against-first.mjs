import { createVisitor as createPair } from "../../../dist/src/verify/visitor.js";

/**
 * What the verifier makes of the first model and each of the others, one after the other.
 *
 * @type {import("../../../src/engines/types.js").CreateVisitor}
 */
export const createVisitor = (vocabulary, models) => {
  const pair = createPair(vocabulary, 2);
  return {
    columns: pair.columns * (models - 1),
    visit([first, ...others], target, out) {
      others.forEach((other, index) => {
        const at = index * pair.columns;
        pair.visit([first, other], target, out.subarray(at, at + pair.columns));
      });
    },
  };
};
