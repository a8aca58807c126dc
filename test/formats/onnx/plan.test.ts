import * as fc from "fast-check";
import { describe, expect, test } from "vitest";
import { OnnxError } from "../../../formats/onnx/errors.js";
import { dataFileName, type ExternalTensorPlan, planExternalData } from "../../../formats/onnx/plan.js";
import { campaignRuns } from "../../support/campaign.js";

const MiB = 2 ** 20;

describe("data files", () => {
  test("are named as transformers.js looks for them, and filled in the order given", () => {
    const tensors = [700, 400, 100, 900].map((byteLength, index) => ({ name: `t${index}`, byteLength }));
    const layout = planExternalData("decoder_model_merged_q4.onnx", tensors, { maxFileBytes: 1200 });
    expect(layout.files).toEqual([
      { name: "decoder_model_merged_q4.onnx_data", size: 1104 },
      { name: "decoder_model_merged_q4.onnx_data_1", size: 1028 },
    ]);
    expect(layout.tensors.map(({ name, part, offset }) => [name, part, offset])).toEqual([
      ["t0", 1, 0],
      ["t1", 1, 704],
      ["t2", 2, 0],
      ["t3", 2, 128],
    ]);
    expect(layout.size).toBe(1104 + 1028);
    expect(planExternalData("m.onnx", [])).toMatchObject({ files: [], tensors: [], size: 0 });
  });

  test("stay below 2^31 bytes, and large tensors begin on a page", () => {
    const tensors = Array.from({ length: 9 }, (_, index) => ({
      name: `t${index}`,
      byteLength: 400 * MiB + 1,
    }));
    const { files, tensors: placed } = planExternalData("m.onnx", tensors);
    expect(files.map(({ size }) => size < 2 ** 31)).toEqual([true, true]);
    expect(placed.map(({ part }) => part)).toEqual([1, 1, 1, 1, 1, 2, 2, 2, 2]);
    expect(placed.every(({ offset }) => offset % 4096 === 0)).toBe(true);
    const small = planExternalData("m.onnx", [
      { name: "a", byteLength: 1 },
      { name: "b", byteLength: MiB - 1 },
      { name: "c", byteLength: MiB },
    ]);
    expect(small.tensors.map(({ offset }) => offset)).toEqual([0, 64, MiB + 4096]);
  });

  test("hold every tensor once, whole, aligned and in order", () => {
    fc.assert(
      fc.property(
        fc.array(fc.integer({ min: 1, max: 2 * MiB }), { maxLength: 60 }),
        fc.integer({ min: 2 * MiB, max: 9 * MiB }),
        (sizes, maxFileBytes) => {
          const tensors = sizes.map((byteLength, index) => ({ name: String(index), byteLength }));
          const layout = planExternalData("m.onnx", tensors, { maxFileBytes });
          expect(layout.tensors.map(({ name, byteLength }) => ({ name, byteLength }))).toEqual(tensors);
          const ends = layout.files.map(() => 0);
          for (const { part, offset, length, byteLength, location } of layout.tensors) {
            expect(offset).toBeGreaterThanOrEqual(ends[part - 1]!);
            expect(offset % (byteLength >= MiB ? 4096 : 64)).toBe(0);
            expect(length).toBe(byteLength);
            expect(location).toBe(dataFileName("m.onnx", part - 1));
            ends[part - 1] = offset + byteLength;
          }
          expect(layout.files.map(({ size }) => size)).toEqual(ends);
          expect(Math.max(0, ...ends)).toBeLessThanOrEqual(maxFileBytes);
          expect(layout.tensors.map(({ part }) => part)).toEqual(
            layout.tensors.map(({ part }) => part).toSorted((a, b) => a - b),
          );
        },
      ),
      { seed: 11, numRuns: campaignRuns(1000) },
    );
  });

  const one = (tensor: Partial<ExternalTensorPlan>): ExternalTensorPlan[] => [
    { name: "t", byteLength: 8, ...tensor },
  ];
  const many = Array.from({ length: 101 }, (_, index) => ({ name: `t${index}`, byteLength: 64 }));
  test.each<[string, string, ExternalTensorPlan[], number | undefined, string]>([
    [
      "a tensor that fits no file",
      "m.onnx",
      one({ name: "ple", byteLength: 2 ** 31 }),
      undefined,
      '"ple" has 2147483648 bytes, a data file holds at most 2147483647',
    ],
    ["a tensor that fits no small file", "m.onnx", one({ byteLength: 9 }), 8, '"t" has 9 bytes'],
    ["more than 100 files", "m.onnx", many, 64, '"t100" would need data file 101'],
    ["a tensor without bytes", "m.onnx", one({ byteLength: 0 }), undefined, "expected at least 1"],
    ["a tensor of half a byte", "m.onnx", one({ byteLength: 0.5 }), undefined, "0.5"],
    ["a tensor without a name", "m.onnx", one({ name: "" }), undefined, "no name"],
    ["a tensor twice", "m.onnx", [...one({}), ...one({})], undefined, "twice"],
    ["files of 0 bytes", "m.onnx", one({}), 0, "0 bytes"],
    ["files of 2^31 bytes", "m.onnx", one({}), 2 ** 31, "2147483648"],
    ["a folder", "onnx/m.onnx", one({}), undefined, "plain name"],
    ["no name", "", one({}), undefined, "plain name"],
    ["a way up", "..", one({}), undefined, "plain name"],
  ])("are not laid out for %s", (_, graphFile, tensors, maxFileBytes, says) => {
    const plan = (): unknown =>
      planExternalData(graphFile, tensors, maxFileBytes === undefined ? {} : { maxFileBytes });
    expect(plan).toThrow(OnnxError);
    expect(plan).toThrow(says);
  });
});
