import { readFileSync } from "node:fs";
import { join } from "node:path";
import { describe, expect, it } from "vitest";
import { packageRoot } from "../../src/base/paths.js";
import {
  blockType,
  blockTypeById,
  blockTypes,
  findBlockType,
  parseBlockType,
  rowBytes,
} from "../../src/blocks/table.js";
import { loadGgmlQuants } from "../support/ggml-quants.js";

interface GoldenType {
  name: string;
  id: number;
  blockSize: number;
  blockBytes: number;
  plain: boolean;
}

const golden = JSON.parse(readFileSync(join(packageRoot, "fixtures/golden/index.json"), "utf8")) as {
  types: GoldenType[];
};
const ggml = loadGgmlQuants();

describe("the table of block types", () => {
  it.each(golden.types)("agrees with the golden layout of $name", ({ name, id, blockSize, blockBytes }) => {
    expect(parseBlockType(name)).toMatchObject({ id, values: blockSize, bytes: blockBytes });
  });

  it.runIf(ggml !== undefined)(
    "agrees with ggml on every type, and leaves out only what is never stored",
    () => {
      for (const { name, id, values, bytes } of blockTypes) {
        const theirs = ggml?.layout(id);
        expect(theirs?.name.toUpperCase()).toBe(name);
        expect(theirs).toMatchObject({ values, bytes });
      }
      const missing = Array.from({ length: 43 }, (_, id) => id).filter(
        (id) => blockTypeById(id) === undefined,
      );
      const stored = missing.filter((id) => (ggml?.layout(id).bytes ?? 0) > 0);
      expect(stored.map((id) => ggml?.layout(id).name)).toEqual(["q8_1", "q8_K"]);
    },
  );

  it("marks the types that llama-quantize refuses without importance", () => {
    const needy = blockTypes.filter((type) => type.needsImportance).map((type) => type.name);
    expect(needy).toEqual(["IQ2_XXS", "IQ2_XS", "IQ3_XXS", "IQ1_S", "IQ2_S", "IQ1_M"]);
  });

  it("finds types by id and by name in any case", () => {
    expect(blockTypeById(14)).toBe(blockType("Q6_K"));
    expect(blockTypeById(9)).toBeUndefined();
    expect(findBlockType("bf16")).toBe(blockType("BF16"));
    expect(findBlockType("q8_1")).toBeUndefined();
    expect(findBlockType("__proto__")).toBeUndefined();
  });

  it("refuses names it does not know as misuse", () => {
    expect(() => parseBlockType("q9")).toThrow(
      expect.objectContaining({
        code: "unknown-block-type",
        exitCode: 2,
        message: 'block type "q9" is not known',
      }),
    );
  });
});

describe("rowBytes", () => {
  it("counts whole blocks", () => {
    expect(rowBytes("Q6_K", 1536)).toBe(1260);
    expect(rowBytes("BF16", 3)).toBe(6);
    expect(rowBytes("Q4_0", 0)).toBe(0);
  });

  it.each([1, 255, -256, 0.5, Number.NaN, 2 ** 60])("refuses %s values of Q6_K", (values) => {
    expect(() => rowBytes("Q6_K", values)).toThrow(expect.objectContaining({ code: "uneven-row" }));
  });

  it("refuses sizes beyond 2^53", () => {
    expect(() => rowBytes("F32", Number.MAX_SAFE_INTEGER)).toThrow(
      expect.objectContaining({ code: "row-too-long" }),
    );
  });
});
