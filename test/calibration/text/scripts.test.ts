import * as fc from "fast-check";
import { describe, expect, it } from "vitest";
import { countScripts, scriptNames } from "../../../calibration/text/scripts.js";

describe("countScripts", () => {
  it("counts letters by script, and neither digits nor punctuation", () => {
    expect(countScripts(["Ab, 12! é", "Привет", "日本の カ", "😀 ∑"])).toEqual({
      Cyrillic: 6,
      Latin: 3,
      Han: 2,
      Hiragana: 1,
      Katakana: 1,
    });
  });

  it("puts scripts without a name of their own together", () => {
    expect(countScripts(["ᏣᎳᎩ ᐃᓄᒃ"])).toEqual({ other: 6 });
  });

  it("counts a character outside the basic plane once", () => {
    expect(countScripts(["𠀀𠀁"])).toEqual({ Han: 2 });
  });

  it("has nothing to say of an empty text, and takes halves of characters", () => {
    expect(countScripts([])).toEqual({});
    expect(countScripts(["\ud800a\udc00"])).toEqual({ Latin: 1 });
  });

  it("agrees with one expression a script", () => {
    fc.assert(
      fc.property(fc.array(fc.string({ unit: "grapheme" }), { maxLength: 8 }), (texts) => {
        const counts = countScripts(texts);
        for (const name of scriptNames) {
          const found = texts.join("").match(new RegExp(`\\p{Script=${name}}`, "gu"))?.length ?? 0;
          expect(counts[name] ?? 0).toBe(found);
        }
      }),
    );
  });
});
