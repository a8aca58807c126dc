/**
 * Fails at the first position.
 *
 * @type {import("../../../../src/engines/types.js").CreateVisitor}
 */
export const createVisitor = () => ({
  columns: 1,
  visit() {
    throw new Error("the visitor is broken on purpose");
  },
});
