import { expect, it } from "vitest";
import { exponentsBy, RULES } from "../../../calibration/balance/rules.js";

const ones = new Float64Array(5).fill(1);

it("brings columns to one size, as far as the rule goes", () => {
  const weights = Float64Array.of(1, 4, 1 / 16, 1, 1);
  expect([...exponentsBy("inverse", ones, weights)]).toEqual([0, -2, 4, 0, 0]);
  expect([...exponentsBy("beta-0.5", ones, weights)]).toEqual([0, -1, 2, 0, 0]);
  expect([...exponentsBy("beta-0.25", ones, weights)]).toEqual([0, 0, 1, 0, 0]);
});

it("weighs what meets a column, and leaves out what all of them share", () => {
  const inputs = Float64Array.of(16, 1, 1, 1, 1 / 16).map((input) => input * 1000);
  expect([...exponentsBy("beta-0.5", inputs, ones)]).toEqual([2, 0, 0, 0, -2]);
  expect([...exponentsBy("inverse", inputs, ones)].every((exponent) => exponent === 0)).toBe(true);
});

it("leaves dead channels alone and ends at 2^10", () => {
  const weights = Float64Array.of(1, 0, 2 ** -40, 1, 2 ** 40);
  for (const rule of RULES) {
    const [, dead, small, , large] = exponentsBy(rule, ones, weights);
    expect([dead, small, large]).toEqual([0, 10, -10]);
  }
  expect([...exponentsBy("beta-0.5", new Float64Array(5), ones)]).toEqual([0, 0, 0, 0, 0]);
});
