import { readFileSync } from "node:fs";
import { join } from "node:path";
import { describe, expect, it } from "vitest";
import { packageRoot } from "../../src/base/paths.js";
import { encodable, encode } from "../../src/blocks/encode/encode.js";
import { parseBlockType, rowBytes } from "../../src/blocks/table.js";
import type { BlockTypeName } from "../../src/blocks/types.js";
import { givesGgmlsBytesForDifficultRows } from "../support/difficult-rows.js";
import { firstDifference } from "../support/weights.js";

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
/** Those of types on lattices are in encode/lattice.test.ts: ggml takes a long time to get ready for them. */
const difficult = encodable.filter((type) => !/^IQ[123]/.test(type));

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

  givesGgmlsBytesForDifficultRows(difficult);

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
