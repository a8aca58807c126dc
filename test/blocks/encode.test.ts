import { readFileSync } from "node:fs";
import { join } from "node:path";
import * as fc from "fast-check";
import { describe, expect, it } from "vitest";
import { packageRoot } from "../../src/base/paths.js";
import { encodable, encode } from "../../src/blocks/encode/encode.js";
import { Kernels } from "../../src/blocks/kernels/kernels.js";
import { blockType, parseBlockType, rowBytes } from "../../src/blocks/table.js";
import type { BlockTypeName } from "../../src/blocks/types.js";
import { campaignRuns } from "../support/campaign.js";
import { loadGgmlQuants } from "../support/ggml-quants.js";
import { firstDifference, importances, weights, withinHalf } from "../support/weights.js";

const folder = join(packageRoot, "fixtures/golden");
const floats = (file: string): Float32Array =>
  new Float32Array(new Uint8Array(readFileSync(join(folder, file))).buffer);
const { types } = JSON.parse(readFileSync(join(folder, "index.json"), "utf8")) as {
  types: { name: string; plain: boolean; importance: boolean }[];
};
const golden = types
  .map(({ name, plain, importance }) => ({ file: name, type: parseBlockType(name).name, plain, importance }))
  .filter(({ type }) => encodable.includes(type));
const values = floats("input.f32");
const importance = floats("importance.f32");
const ggml = loadGgmlQuants();
/** Without an importance ggml ends the process for these, or (IQ1_M) takes the squares of the values, which loses more. */
const needy: ReadonlySet<BlockTypeName> = new Set(["IQ1_S", "IQ1_M", "IQ2_XXS", "IQ2_XS"]);
/** Types whose kernels refuse what is out of range before it is encoded; see `rows.ts`. */
const limited = (type: BlockTypeName): boolean =>
  blockType(type).values > 1 && !["Q8_0", "Q4_0", "Q6_K"].includes(type);

function bytesOf(type: BlockTypeName, row: Float32Array, weightsOfRow?: Float32Array): Uint8Array {
  const out = new Uint8Array(rowBytes(type, row.length));
  encode(type, row, out, weightsOfRow);
  return out;
}

describe("encode", () => {
  it.each(golden.filter(({ plain }) => plain))("gives ggml's bytes for the golden values in $type", (one) => {
    const expected = readFileSync(join(folder, `${one.file}.bin`));
    expect(firstDifference(bytesOf(one.type, values), expected)).toBe(-1);
  });

  it.each(golden.filter((one) => one.importance))(
    "gives ggml's bytes for the golden values and their importance in $type",
    (one) => {
      const expected = readFileSync(join(folder, `${one.file}.im.bin`));
      expect(firstDifference(bytesOf(one.type, values, importance), expected)).toBe(-1);
    },
  );

  it.runIf(ggml !== undefined).each(encodable.filter((type) => !needy.has(type)))(
    "gives ggml's bytes for difficult rows in %s",
    (type) => {
      fc.assert(
        fc.property(weights(256, { min: -150, max: 127 }), (raw) => {
          const row = limited(type) ? withinHalf(raw) : raw;
          expect(firstDifference(bytesOf(type, row), ggml?.quantize(type, row) ?? new Uint8Array())).toBe(-1);
        }),
        { seed: 11, numRuns: campaignRuns(1000) },
      );
    },
  );

  it.runIf(ggml !== undefined).each(encodable.filter((type) => Kernels.heedsImportance(type)))(
    "gives ggml's bytes for difficult rows and importances in %s",
    (type) => {
      fc.assert(
        fc.property(weights(512, { min: -150, max: 127 }), importances(512), (raw, given) => {
          const row = withinHalf(raw);
          const expected = ggml?.quantize(type, row, given) ?? new Uint8Array();
          expect(firstDifference(bytesOf(type, row, given), expected)).toBe(-1);
        }),
        { seed: 12, numRuns: campaignRuns(600) },
      );
    },
  );

  it("treats rows with an importance one by one", () => {
    for (const type of encodable) {
      const rows = values.subarray(0, 2048);
      const whole = bytesOf(type, rows, importance);
      const half = whole.length / 2;
      expect(whole.subarray(half)).toEqual(bytesOf(type, rows.subarray(1024), importance));
    }
  });

  it("refuses what it cannot write", () => {
    expect(() => encode("I8", new Float32Array(32), new Uint8Array(32))).toThrow(
      expect.objectContaining({ code: "not-encodable" }),
    );
    expect(() => encode("Q8_0", new Float32Array(33), new Uint8Array(34))).toThrow(
      expect.objectContaining({ code: "uneven-row" }),
    );
    expect(() => encode("Q8_0", new Float32Array(32), new Uint8Array(33))).toThrow(
      expect.objectContaining({ code: "wrong-length" }),
    );
    expect(() => encode("Q8_0", new Float32Array(64), new Uint8Array(68), new Float32Array(48))).toThrow(
      expect.objectContaining({ code: "uneven-row" }),
    );
  });
});
