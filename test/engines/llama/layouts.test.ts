import { describe, expect, it } from "vitest";
import {
  checkDefaults,
  type FieldType,
  type FieldValue,
  LAYOUTS,
} from "../../../src/engines/llama/layouts.js";
import { thrown } from "./support/failures.js";

const BYTES: Readonly<Record<FieldType, number>> = { i32: 4, u32: 4, f32: 4, bool: 1, size: 8, pointer: 8 };

const layout = LAYOUTS["0.5.0"]!;
const structs = Object.entries(LAYOUTS).flatMap(([release, { modelParams, contextParams, batch }]) => [
  { title: `model parameters of ${release}`, struct: modelParams },
  { title: `context parameters of ${release}`, struct: contextParams },
  { title: `batch of ${release}`, struct: batch },
]);

describe("the layout table", () => {
  it.each(structs)("follows the C rules for alignment: $title", ({ struct }) => {
    let end = 0;
    for (const [name, type, offset] of struct.fields) {
      expect({ name, offset }).toEqual({ name, offset: Math.ceil(end / BYTES[type]) * BYTES[type] });
      end = offset + BYTES[type];
    }
    expect(struct.size).toBe(Math.ceil(end / 8) * 8);
  });
});

describe("checkDefaults", () => {
  const defaults = Object.fromEntries(
    layout.contextParams.fields.map(([name, , , preset]) => [name, preset as FieldValue]),
  );

  it("accepts what the release has", () => {
    expect(() => checkDefaults("context parameters", layout.contextParams, defaults)).not.toThrow();
  });

  it.each([
    ["n_ctx", 4096],
    ["type_k", 8],
    ["cb_eval", 140640035254048n],
    ["swa_full", false],
    ["yarn_ext_factor", Number.NaN],
    ["n_samplers", undefined],
  ])("refuses another %s", (name, value) => {
    const falsified = { ...defaults, [name]: value } as Record<string, FieldValue>;
    const error = thrown(() => checkDefaults("context parameters", layout.contextParams, falsified));
    expect(error.code).toBe("engine-layout");
    expect(error.message).toContain(`${name} = ${String(value)}`);
  });
});
