/**
 * Keeps every logit of every model, one model after the other, and the target behind them.
 *
 * @type {import("../../../../src/engines/types.js").CreateVisitor}
 */
export const createVisitor = (vocabulary, models) => {
  const columns = vocabulary * models + 1;
  return {
    columns,
    visit(rows, target, out) {
      rows.forEach((row, model) => {
        out.set(row, model * vocabulary);
      });
      out[columns - 1] = target;
    },
  };
};
