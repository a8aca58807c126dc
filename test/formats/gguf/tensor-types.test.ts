import { describe, expect, test } from "vitest";
import { GgufError } from "../../../formats/gguf/errors.js";
import { tensorBytes, TENSOR_TYPES, tensorType, tensorTypeById } from "../../../formats/gguf/tensor-types.js";
import { ggmlBase, hasGgml } from "../../support/ggml.js";

describe("tensor types", () => {
  test.skipIf(!hasGgml)("are those of ggml, with its blocks and bytes", () => {
    const ggml = ggmlBase();
    const theirs = Array.from({ length: 43 }, (_, id) => ({
      name: (ggml.ggml_type_name(id) ?? "").toUpperCase(),
      id,
      blockValues: ggml.ggml_blck_size(id),
      blockBytes: ggml.ggml_type_size(id),
    })).filter(({ name, blockBytes }) => blockBytes > 0 && name !== "Q8_1" && name !== "Q8_K");
    expect([...TENSOR_TYPES].toSorted((a, b) => a.id - b.id)).toEqual(theirs);
  });

  test("are found by name and by id", () => {
    for (const type of TENSOR_TYPES) {
      expect(tensorType(type.name)).toBe(type);
      expect(tensorTypeById(type.id)).toBe(type);
    }
    for (const id of [4, 5, 9, 15, 31, 33, 36, 38, 43, -1, 1.5]) expect(tensorTypeById(id)).toBeUndefined();
    expect(() => tensorType("q4_0")).toThrow(GgufError);
    expect(() => tensorType("toString")).toThrow(GgufError);
  });
});

describe("tensorBytes", () => {
  test("counts whole blocks", () => {
    expect(tensorBytes("F32", [3])).toBe(12);
    expect(tensorBytes("Q4_0", [64, 3, 2, 5])).toBe(2 * 18 * 30);
    // The embedding table of 31B at Q6_K.
    expect(tensorBytes("Q6_K", [5376, 262_144])).toBe((5376 / 256) * 210 * 262_144);
  });

  test.each([
    ["Q4_0", [33], "multiple of 32"],
    ["Q4_0", [16, 2], "multiple of 32"],
    ["F32", [], "positive integer"],
    ["F32", [0], "positive integer"],
    ["F32", [4, -1], "positive integer"],
    ["F32", [4, 1.5], "positive integer"],
    ["F32", [2 ** 53], "positive integer"],
    ["F32", [2 ** 52], "larger than"],
    ["I8", [2 ** 30, 2 ** 30], "larger than"],
    ["I8", [2 ** 40, 2 ** 40, 2 ** 40, 2 ** 40], "larger than"],
    ["F12", [4], "not one that"],
  ])("refuses %s %j: %s", (type, ne, message) => {
    expect(() => tensorBytes(type, ne)).toThrow(GgufError);
    expect(() => tensorBytes(type, ne, "Tensor x")).toThrow(message);
  });
});
