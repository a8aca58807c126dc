/**
 * Negative log-likelihood of the target, a column for each model.
 *
 * @type {import("../../../../src/engines/types.js").CreateVisitor}
 */
export const createVisitor = (_vocabulary, models) => ({
  columns: models,
  visit(rows, target, out) {
    rows.forEach((row, model) => {
      const largest = row.reduce((a, b) => Math.max(a, b));
      const sum = row.reduce((total, logit) => total + Math.exp(logit - largest), 0);
      out[model] = largest + Math.log(sum) - row[target];
    });
  },
});
