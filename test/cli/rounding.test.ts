import { describe, expect, it } from "vitest";
import { describeRounding } from "../../src/cli/rounding.js";

const tensors = [{ type: "F32" }, { type: "Q4_K" }];

describe("what is said of rounding", () => {
  it("names the method and what it makes the least", () => {
    expect(describeRounding({ method: "search", tensors }, null)).toBe("Rounded by search: least Σ error².");
    expect(describeRounding({ method: "search", tensors }, "/tmp/a/imatrix.gguf")).toBe(
      "Rounded by search: least Σ importance · error², importance from imatrix.gguf.",
    );
    expect(describeRounding({ method: "ggml", tensors }, null)).toBe("Rounded by ggml's method.");
    expect(describeRounding({ method: "ggml", tensors }, "imatrix.dat")).toBe(
      "Rounded by ggml's method, importance from imatrix.dat.",
    );
  });

  it("is nothing where nothing was rounded into blocks, or nobody knows", () => {
    expect(describeRounding({ method: "search", tensors: [{ type: "BF16" }] }, null)).toBe("");
    expect(describeRounding({ method: null, tensors }, null)).toBe("");
  });
});
