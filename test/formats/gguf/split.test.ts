import { copyFileSync, readFileSync, renameSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { ggufAllShards } from "@huggingface/gguf";
import * as fc from "fast-check";
import { describe, expect, test } from "vitest";
import { FormatError } from "../../../formats/errors.js";
import { GgufError } from "../../../formats/gguf/errors.js";
import type { GgufPlan } from "../../../formats/gguf/plan.js";
import { openGguf } from "../../../formats/gguf/read.js";
import { parsePartName } from "../../../formats/gguf/split.js";
import { gguf } from "../../../formats/gguf/values.js";
import { createGguf, partNames, planGguf } from "../../../formats/gguf/write.js";
import { hasGgml, readWithGgml } from "../../support/ggml.js";
import { anyMetadata, anyTensors, plainMetadata, temporaryFolder } from "./support.js";

/** Tensors of 64 bytes each, named after their number. */
const equal = (count: number): GgufPlan["tensors"] =>
  Array.from({ length: count }, (_, index) => ({ name: `t${index}`, type: "F32", ne: [16] }));

/** Tensors of so many bytes. */
const sized = (...bytes: number[]): GgufPlan["tensors"] =>
  bytes.map((n, index) => ({ name: `t${index}`, type: "I8", ne: [n] }));

const counts = (tensors: GgufPlan["tensors"], split: GgufPlan["split"] = {}): number[] =>
  planGguf({ metadata: [], tensors, split }).parts.map((part) => part.tensors.length);

async function write(plan: GgufPlan, path: string): Promise<string[]> {
  const output = await createGguf(path, planGguf(plan));
  await output.commit();
  return output.parts.map((part) => part.path);
}

const PLAN: GgufPlan = {
  metadata: [
    ["general.architecture", gguf.string("gemma4")],
    ["general.name", gguf.string("Nano")],
  ],
  tensors: equal(5),
  split: { maxTensors: 2 },
};

describe("a plan is split", () => {
  test("by the number of tensors", () => {
    expect(counts(equal(7), { maxTensors: 3 })).toEqual([3, 3, 1]);
    expect(counts(equal(6), { maxTensors: 3 })).toEqual([3, 3]);
    expect(counts(equal(3), { maxTensors: 1 })).toEqual([1, 1, 1]);
  });

  test("by the padded bytes of tensors, whichever bound comes first", () => {
    // 33 bytes take 64 with their padding.
    expect(counts(sized(33, 33, 33), { maxBytes: 128 })).toEqual([2, 1]);
    expect(counts(sized(33, 33, 33), { maxBytes: 127 })).toEqual([1, 1, 1]);
    expect(counts(sized(32, 32, 32, 32), { maxBytes: 96, maxTensors: 2 })).toEqual([2, 2]);
    expect(counts(sized(32, 32, 32, 32), { maxBytes: 32, maxTensors: 2 })).toEqual([1, 1, 1, 1]);
  });

  test("with a part of its own for a tensor that is too large, and no empty part", () => {
    expect(counts(sized(500, 10, 10, 500, 10), { maxBytes: 100 })).toEqual([1, 2, 1, 1]);
  });

  test("not at all when everything fits, and is then an ordinary file", () => {
    for (const split of [{ maxTensors: 7 }, { maxBytes: 7 * 64 }, {}]) {
      const plan = { metadata: [], tensors: equal(7) };
      expect(planGguf({ ...plan, split })).toEqual(planGguf(plan));
    }
    expect(counts([], { maxTensors: 1 })).toEqual([0]);
  });

  test("under llama.cpp's names", () => {
    expect(partNames("out/model.gguf", 1)).toEqual(["out/model.gguf"]);
    expect(partNames("out/model.gguf", 2)).toEqual([
      "out/model-00001-of-00002.gguf",
      "out/model-00002-of-00002.gguf",
    ]);
    expect(partNames("model", 12_345)[9]).toBe("model-00010-of-12345.gguf");
    expect(parsePartName("a/b-00002-of-00003.gguf")).toEqual({ prefix: "a/b", index: 1, count: 3 });
    for (const name of ["b.gguf", "-00001-of-00002.gguf", "b-00000-of-00002.gguf", "b-00003-of-00002.gguf"]) {
      expect(parsePartName(name)).toBeUndefined();
    }
  });
});

describe("a split model", () => {
  test("is the single model again, opened by any part", async () => {
    const folder = temporaryFolder();
    let run = 0;
    await fc.assert(
      fc.asyncProperty(
        anyMetadata,
        anyTensors,
        fc.integer({ min: 1, max: 4 }),
        fc.constantFrom(8, 32, 256),
        async (metadata, tensors, maxTensors, alignment) => {
          run += 1;
          const plan = { metadata, tensors, alignment };
          const whole = await openGguf((await write(plan, join(folder, `whole-${run}.gguf`)))[0]!);
          const split = planGguf({ ...plan, split: { maxTensors } });
          const paths = await write({ ...plan, split: { maxTensors } }, join(folder, `split-${run}.gguf`));
          for (const path of paths) {
            const model = await openGguf(path);
            expect(model.paths).toEqual(paths);
            expect(model.sizes).toEqual(split.parts.map((part) => part.size));
            expect(model.tensors).toEqual(split.tensors);
            expect(model.alignment).toBe(alignment);
            expect(plainMetadata(model.metadata)).toEqual(plainMetadata(whole.metadata));
          }
        },
      ),
      { seed: 4, numRuns: 15 },
    );
  });

  test.skipIf(!hasGgml)("has parts that llama.cpp reads, with the keys it splits by", async () => {
    const paths = await write({ ...PLAN, alignment: 64 }, join(temporaryFolder(), "m.gguf"));
    const parts = paths.map((path) => readWithGgml(path)!);
    const extra = ["general.alignment", "split.no", "split.tensors.count", "split.count"];
    expect(parts.map((part) => part.entries.map((entry) => entry.key))).toEqual([
      ["general.architecture", "general.name", ...extra],
      extra,
      extra,
    ]);
    for (const [index, part] of parts.entries()) {
      const [no, total, count] = part.entries.slice(-3);
      // Types 2 and 5 are u16 and i32.
      expect(no).toEqual({ key: "split.no", type: 2, length: 1, value: Uint8Array.of(index, 0) });
      expect(total).toMatchObject({ type: 5, value: Uint8Array.of(5, 0, 0, 0) });
      expect(count).toMatchObject({ type: 2, value: Uint8Array.of(3, 0) });
      expect(part.header).toEqual(
        new Uint8Array(readFileSync(paths[index]!).subarray(0, part.header.length)),
      );
    }
    expect(parts.map((part) => part.tensors.map((tensor) => tensor.name))).toEqual([
      ["t0", "t1"],
      ["t2", "t3"],
      ["t4"],
    ]);
  });

  test("is read by @huggingface/gguf", async () => {
    const paths = await write(PLAN, join(temporaryFolder(), "m.gguf"));
    const { shards, parameterCount } = await ggufAllShards(paths[0]!, { allowLocalFile: true });
    expect(shards.flatMap((shard) => shard.tensorInfos.map((tensor) => tensor.name))).toEqual([
      "t0",
      "t1",
      "t2",
      "t3",
      "t4",
    ]);
    expect(parameterCount).toBe(5 * 16);
  });
});

/** Metadata of part `no` of 3, for making parts by hand. */
function handMade(
  folder: string,
  no: number,
  change: Record<string, ReturnType<typeof gguf.u16> | null> = {},
) {
  const keys: Record<string, ReturnType<typeof gguf.u16> | null> = {
    "xplit.no": gguf.u16(no),
    "xplit.count": gguf.u16(3),
    "xplit.tensors.count": gguf.i32(3),
    ...change,
  };
  const metadata = Object.entries(keys).flatMap(([key, value]) => (value ? [[key, value] as const] : []));
  const { parts } = planGguf({ metadata, tensors: [{ name: `t${no}`, type: "F32", ne: [8] }] });
  const bytes = Buffer.alloc(parts[0]!.size);
  bytes.set(parts[0]!.header);
  // The planner keeps the split keys to itself, so they go in under another first letter.
  const text = bytes.toString("latin1").replaceAll("xplit.", "split.");
  const path = partNames(join(folder, "m.gguf"), 3)[no]!;
  writeFileSync(path, text, "latin1");
  return path;
}

/** The message with which a path is refused. */
async function refusal(path: string): Promise<string> {
  const error: unknown = await openGguf(path).then(
    () => new Error("it was opened"),
    (error: unknown) => error,
  );
  if (error instanceof GgufError) return error.message;
  throw error;
}

describe("parts that do not belong together are refused", () => {
  test("though parts by hand are fine when they fit", async () => {
    const folder = temporaryFolder();
    const [first] = [0, 1, 2].map((no) => handMade(folder, no));
    expect((await openGguf(first!)).tensors.map(({ name, part }) => [name, part])).toEqual([
      ["t0", 0],
      ["t1", 1],
      ["t2", 2],
    ]);
  });

  test("a part is missing", async () => {
    const paths = await write(PLAN, join(temporaryFolder(), "m.gguf"));
    rmSync(paths[1]!);
    await expect(openGguf(paths[2]!)).rejects.toThrow(FormatError);
    await expect(openGguf(paths[2]!)).rejects.toThrow("m-00002-of-00003.gguf");
  });

  test("a part is cut short", async () => {
    const paths = await write(PLAN, join(temporaryFolder(), "m.gguf"));
    writeFileSync(paths[1]!, readFileSync(paths[1]!).subarray(0, -1));
    expect(await refusal(paths[0]!)).toContain("m-00002-of-00003.gguf: tensor");
  });

  test("a part lies under the name of another", async () => {
    const paths = await write(PLAN, join(temporaryFolder(), "m.gguf"));
    copyFileSync(paths[1]!, paths[2]!);
    expect(await refusal(paths[0]!)).toContain("m-00003-of-00003.gguf: split.no is 1, expected 2");
    expect(await refusal(paths[2]!)).toContain("split.no is 1, expected 2");
  });

  test("a part is not named like one", async () => {
    const folder = temporaryFolder();
    const paths = await write(PLAN, join(folder, "m.gguf"));
    renameSync(paths[0]!, join(folder, "other.gguf"));
    expect(await refusal(join(folder, "other.gguf"))).toContain("one of 3 parts, but not named so");
  });

  test("a part is named as of another number", async () => {
    const folder = temporaryFolder();
    const paths = await write(PLAN, join(folder, "m.gguf"));
    const wrong = join(folder, "m-00001-of-00004.gguf");
    renameSync(paths[0]!, wrong);
    expect(await refusal(wrong)).toContain("split.count is 3, expected 4");
  });

  test.each<[string, number, Parameters<typeof handMade>[2], string]>([
    ["a count of another part", 1, { "xplit.count": gguf.u16(2) }, "00002-of-00003.gguf: split.count is 2"],
    ["a count without a number", 1, { "xplit.no": null }, "split.no is missing"],
    ["no count in another part", 2, { "xplit.count": null }, "split.count is missing"],
    ["no total", 0, { "xplit.tensors.count": null }, "split.tensors.count is missing"],
    ["another total", 2, { "xplit.tensors.count": gguf.i32(4) }, "is 4, expected 3"],
    ["a count of the wrong type", 0, { "xplit.count": gguf.u32(3) }, "of type u32, expected u16"],
    ["a total of the wrong type", 0, { "xplit.tensors.count": gguf.u32(3) }, "of type u32, expected i32"],
  ])("they have %s", async (_, no, change, says) => {
    const folder = temporaryFolder();
    const paths = [0, 1, 2].map((index) => handMade(folder, index, index === no ? change : {}));
    expect(await refusal(paths[0]!)).toContain(says);
  });

  test("they hold more or fewer tensors than announced", async () => {
    const folder = temporaryFolder();
    const total = { "xplit.tensors.count": gguf.i32(4) };
    const paths = [0, 1, 2].map((no) => handMade(folder, no, total));
    expect(await refusal(paths[1]!)).toContain("hold 3 tensors, expected 4");
  });

  test("two of them hold the same tensor", async () => {
    const folder = temporaryFolder();
    const paths = [0, 1, 2].map((no) => handMade(folder, no));
    const bytes = readFileSync(paths[2]!, "latin1").replace("t2", "t0");
    writeFileSync(paths[2]!, bytes, "latin1");
    expect(await refusal(paths[0]!)).toContain('00003-of-00003.gguf: tensor "t0"');
  });

  test("but what llama.cpp leaves in a merged file is no split", async () => {
    const folder = temporaryFolder();
    const path = handMade(folder, 0, { "xplit.count": gguf.u16(0) });
    const merged = join(folder, "merged.gguf");
    renameSync(path, merged);
    const model = await openGguf(merged);
    expect(model.paths).toEqual([merged]);
    expect([...model.metadata.keys()]).toEqual([]);
  });
});
