import { describe, expect, it } from "vitest";
import { exponential, vanishing } from "../../src/verify/exponential.js";

describe("exponential", () => {
  it("is e^x over its whole range, ends included", () => {
    let worst = 0;
    let worstOfLarge = 0;
    for (let i = 0; i <= 200_000; i++) {
      const x = (vanishing * i) / 200_000;
      const error = Math.abs(exponential(x) / Math.exp(x) - 1);
      worst = Math.max(worst, error);
      if (x > -4) worstOfLarge = Math.max(worstOfLarge, error);
    }
    expect(worst).toBeLessThan(2e-14);
    expect(worstOfLarge).toBeLessThan(2e-15);
    expect(exponential(0)).toBe(1);
    expect(exponential(vanishing)).toBeGreaterThan(0);
  });
});
