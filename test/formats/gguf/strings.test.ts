import * as fc from "fast-check";
import { describe, expect, test } from "vitest";
import { GgufError } from "../../../formats/gguf/errors.js";
import { decodeUtf8, encodeUtf8, GgufStrings, GgufStringsBuilder } from "../../../formats/gguf/strings.js";
import { encodedStrings } from "./support.js";

const text = fc.string({ unit: "binary", maxLength: 40 });

describe("GgufStrings", () => {
  test("holds any strings in the encoding of the file", () => {
    fc.assert(
      fc.property(fc.array(text, { maxLength: 60 }), (values) => {
        const list = GgufStrings.from(values);
        expect(list.length).toBe(values.length);
        expect([...list]).toEqual(values);
        expect(values.map((_, index) => list.at(index))).toEqual(values);
        expect(encodedStrings(values).equals(list.bytes)).toBe(true);
      }),
      { seed: 1, numRuns: 100 },
    );
  });

  test("keeps a byte order mark", () => {
    const list = GgufStrings.from(["\uFEFF", "\uFEFFa"]);
    expect([...list, list.at(1)]).toEqual(["\uFEFF", "\uFEFFa", "\uFEFFa"]);
    expect(decodeUtf8(encodeUtf8("\uFEFFx", "x"), "x")).toBe("\uFEFFx");
  });

  test("takes the replacement character but no half of a surrogate pair", () => {
    expect([...GgufStrings.from(["\uFFFD", "😀"])]).toEqual(["\uFFFD", "😀"]);
    expect(() => GgufStrings.from(["\uD800"])).toThrow(GgufError);
    expect(() => GgufStrings.from(["a\uDE00"])).toThrow("surrogate");
  });

  test("keeps bytes that are not UTF-8 and shows them as U+FFFD", () => {
    const list = GgufStrings.from([Uint8Array.of(0xff, 0x41), "b"]);
    expect([...list]).toEqual(["\uFFFDA", "b"]);
    expect([...list.bytes.subarray(8, 10)]).toEqual([0xff, 0x41]);
  });

  test("refuses an index outside", () => {
    for (const index of [-1, 2, 0.5, Number.NaN]) {
      expect(() => GgufStrings.from(["a", "b"]).at(index)).toThrow(RangeError);
    }
  });

  test("wraps only bytes that are exactly so many strings", () => {
    const bytes = encodedStrings(["a", "bc"]);
    expect([...GgufStrings.fromEncoded(bytes, 2)]).toEqual(["a", "bc"]);
    expect(GgufStrings.fromEncoded(bytes, 2).bytes).toBe(bytes);
    for (const [wrong, length] of [
      [bytes, 1],
      [bytes, 3],
      [bytes.subarray(0, -1), 2],
      [bytes.subarray(0, 10), 2],
      [Buffer.concat([bytes, Buffer.alloc(1)]), 2],
    ] as const) {
      expect(() => GgufStrings.fromEncoded(wrong, length)).toThrow(GgufError);
    }
  });
});

test("the builder mixes strings, bytes and ready encodings across its blocks", () => {
  const long = "x".repeat(3_000_000);
  const values: string[] = [];
  const builder = new GgufStringsBuilder();
  for (let index = 0; index < 5000; index++) {
    const value = index === 2500 ? long : `token ${index} ${"é".repeat(index % 97)}`;
    values.push(value);
    if (index % 3 === 0) builder.append(Buffer.from(value));
    else if (index % 7 === 0) builder.appendEncoded(encodedStrings([value]), 1);
    else builder.append(value);
  }
  const list = builder.build();
  expect(encodedStrings(values).equals(list.bytes)).toBe(true);
  expect(list.at(4999)).toBe(values[4999]);
  expect(list.length).toBe(5000);
  // Building is not an end: the builder goes on.
  expect([...builder.append("more").build()].at(-1)).toBe("more");
});

test("the builder refuses ready encodings that are not what was said", () => {
  expect(() => new GgufStringsBuilder().appendEncoded(encodedStrings(["a"]), 2).build()).toThrow(GgufError);
});
