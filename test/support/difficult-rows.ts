import * as fc from "fast-check";
import { expect, it } from "vitest";
import { encode } from "../../src/blocks/encode/encode.js";
import { Kernels } from "../../src/blocks/kernels/kernels.js";
import { blockType, rowBytes } from "../../src/blocks/table.js";
import type { BlockTypeName } from "../../src/blocks/types.js";
import { campaignRuns } from "./campaign.js";
import { loadGgmlQuants } from "./ggml-quants.js";
import { firstDifference, importances, weights, withinHalf } from "./weights.js";

/** Without an importance ggml ends the process for these, or (IQ1_M) takes the squares of the values, which loses more. */
const needy: ReadonlySet<BlockTypeName> = new Set(["IQ1_S", "IQ1_M", "IQ2_XXS", "IQ2_XS"]);
/** Types whose kernels refuse what is out of range before it is encoded; see `rows.ts`. */
const limited = (type: BlockTypeName): boolean =>
  blockType(type).values > 1 && !["Q8_0", "Q4_0", "Q6_K"].includes(type);

function bytesOf(type: BlockTypeName, row: Float32Array, importance?: Float32Array): Uint8Array {
  const out = new Uint8Array(rowBytes(type, row.length));
  encode(type, row, out, importance);
  return out;
}

/** Tests that hold the reference encoders of types to ggml on rows that encoders stumble over. */
export function givesGgmlsBytesForDifficultRows(types: readonly BlockTypeName[]): void {
  const ggml = loadGgmlQuants();

  it.runIf(ggml !== undefined).each(types.filter((type) => !needy.has(type)))(
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

  it.runIf(ggml !== undefined).each(types.filter((type) => Kernels.heedsImportance(type)))(
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
}
