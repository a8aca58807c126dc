import { readFile, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { describe, expect, it } from "vitest";
import { openGguf } from "../../formats/gguf/read.js";
import type { Plan } from "../../src/plan/plan.js";
import { roundable, type RoundedBytes, withRounded } from "../../src/plan/rounded.js";
import { isComplete, runPlan } from "../../src/quantize/quantize.js";
import { NANO } from "../support/checkpoints.js";
import { prepare, scratch } from "./nano.js";

const folder = scratch();
const memoryBytes = 2 ** 26;
const ROUNDED = "blk.1.ffn_down.weight";

/** A plan that takes one tensor's bytes from a file. */
async function replace(plan: Plan, bytes: Uint8Array, sha256: string): Promise<Plan> {
  const path = join(folder, "rounded.bin");
  await writeFile(path, bytes);
  const rounded: RoundedBytes = { pieces: [{ path, offset: 0, bytes: bytes.length }], sha256, effort: 1 };
  return withRounded(plan, ({ name }) => (name === ROUNDED ? rounded : undefined));
}

describe("tensors that were rounded before", () => {
  it("come into the file as they are, and all others by the plan's method", async () => {
    const { plan, metadata } = await prepare(NANO, { mix: "q4_0" });
    const index = plan.tensors.findIndex(({ name }) => name === ROUNDED);
    const bytes = new Uint8Array(plan.tensors[index]!.byteLength).map((_, place) => place % 251);
    const changed = await replace(plan, bytes, "a".repeat(64));
    expect(changed.hash).not.toBe(plan.hash);
    expect((await replace(plan, bytes, "b".repeat(64))).hash).not.toBe(changed.hash);
    expect(changed.method).toBe("gptq");
    const paths = [join(folder, "plain.gguf"), join(folder, "rounded.gguf")] as const;
    await runPlan({ plan, metadata, output: paths[0], memoryBytes });
    await runPlan({ plan: changed, metadata, output: paths[1], memoryBytes });
    const [plain, rounded] = await Promise.all(paths.map((path) => readFile(path)));
    for (const { name, offset, byteLength } of (await openGguf(paths[1])).tensors) {
      const found = rounded!.subarray(offset, offset + byteLength);
      const expected = name === ROUNDED ? bytes : plain!.subarray(offset, offset + byteLength);
      expect([name, Buffer.compare(found, expected)]).toEqual([name, 0]);
    }
  });

  it("have the bytes that are planned", async () => {
    const { plan } = await prepare(NANO, { mix: "q4_0" });
    await expect(replace(plan, new Uint8Array(5), "a".repeat(64))).rejects.toThrow(/rounded to 5 bytes/);
  });

  it("are read anew when their file has changed", async () => {
    const { plan, metadata } = await prepare(NANO, { mix: "q4_0" });
    const { byteLength } = plan.tensors.find(({ name }) => name === ROUNDED)!;
    const run = {
      plan: await replace(plan, new Uint8Array(byteLength), "c".repeat(64)),
      metadata,
      output: join(folder, "kept.gguf"),
    };
    await runPlan({ ...run, memoryBytes, keepJournal: true });
    expect(await isComplete(run)).toBe(true);
    await replace(plan, new Uint8Array(byteLength).fill(1), "c".repeat(64));
    expect(await isComplete(run)).toBe(false);
  });
});

describe("roundable", () => {
  it("finds the matrices of few bits, and the table where it is the output matrix", async () => {
    const { plan } = await prepare(NANO, { mix: "q4_k_m" });
    const names = roundable(plan).map(({ name }) => name);
    expect(names).toContain("token_embd.weight");
    expect(names).toContain(ROUNDED);
    expect(names).not.toContain("per_layer_token_embd.weight");
    expect(names.some((name) => /norm|rope|scale/.test(name))).toBe(false);
    const { plan: exact } = await prepare(NANO, { mix: "bf16" });
    expect(roundable(exact)).toEqual([]);
  });
});
