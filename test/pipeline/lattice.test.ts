import { cp, mkdir, readdir, readFile, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { describe, expect, it } from "vitest";
import { openFile } from "../../formats/file-source.js";
import { openGguf } from "../../formats/gguf/read.js";
import { decode } from "../../src/blocks/decode/decode.js";
import { bfloatsToFloats, floatsToBfloats, floatToHalf, halfToFloat } from "../../src/blocks/floats.js";
import type { BlockTypeName } from "../../src/blocks/types.js";
import { type ConvertedArtifact, type ConvertRequest, convert } from "../../src/pipeline/convert.js";
import { silent } from "../../src/pipeline/progress.js";
import { convertFixture, convertRequest, nanoCheckpoint, scratchFolder } from "../support/convert.js";

const never = new AbortController().signal;

async function write(request: Partial<ConvertRequest>): Promise<ConvertedArtifact> {
  const [artifact] = await convert(convertRequest({ method: "search", ...request }), silent, never);
  return artifact!;
}

/**
 * nano-e with the matrices of its layers on lattices: a half for each run of values times whole numbers from -8 to 7,
 * rounded to BF16.
 *
 * @param share values that share a scale; a whole row when left out
 */
async function latticeCheckpoint(share?: number): Promise<string> {
  const folder = scratchFolder();
  await mkdir(folder, { recursive: true });
  for (const file of await readdir(nanoCheckpoint)) {
    if (/\.(?:json|jinja)$/.test(file)) await cp(join(nanoCheckpoint, file), join(folder, file));
  }
  const bytes = await readFile(join(nanoCheckpoint, "model.safetensors"));
  const length = Number(bytes.readBigUInt64LE(0));
  const header = JSON.parse(bytes.toString("utf8", 8, 8 + length)) as Record<
    string,
    { shape?: number[]; data_offsets?: [number, number] }
  >;
  for (const [name, { shape = [], data_offsets: [start, end] = [0, 0] }] of Object.entries(header)) {
    if (!name.includes(".layers.") || shape.length !== 2) continue;
    const stored = bytes.subarray(8 + length + start, 8 + length + end);
    const values = new Float32Array(stored.length / 2);
    bfloatsToFloats(Uint8Array.from(stored), values);
    const run = share ?? shape[1]!;
    for (let at = 0; at < values.length; at += run) {
      const own = values.subarray(at, at + run);
      const extreme = own.reduce((most, value) => (Math.abs(value) > Math.abs(most) ? value : most), 0);
      const scale = halfToFloat(floatToHalf(extreme / -8));
      for (const [index, value] of own.entries())
        own[index] = scale * Math.max(-8, Math.min(7, Math.round(value / scale)));
    }
    const back = new Uint8Array(stored.length);
    floatsToBfloats(values, back);
    stored.set(back);
  }
  await writeFile(join(folder, "model.safetensors"), bytes);
  return folder;
}

/** Tensors of a GGUF by name, each value rounded to BF16. */
async function bfloatsOf(path: string): Promise<Map<string, Float32Array>> {
  const found = new Map<string, Float32Array>();
  const { tensors } = await openGguf(path);
  const file = await openFile(path);
  for (const { name, type, ne, offset, byteLength } of tensors) {
    const bytes = new Uint8Array(byteLength);
    await file.read(bytes, offset);
    const values = new Float32Array(ne.reduce((product, size) => product * size, 1));
    decode(type as BlockTypeName, bytes, values);
    const rounded = new Uint8Array(2 * values.length);
    floatsToBfloats(values, rounded);
    bfloatsToFloats(rounded, values);
    found.set(name, values);
  }
  await file.close();
  return found;
}

describe("a checkpoint that was trained for 4 bits", () => {
  it.each([
    ["a scale for each block", 32],
    ["a scale for each row", undefined],
  ])("is kept in every bit of BF16: %s", async (_, share) => {
    const source = await latticeCheckpoint(share);
    const { files, lattices, tensors, balance } = await write({ source, types: ["Q4_K_M"] });
    const types = new Map(tensors.map(({ name, type }) => [name, type]));
    const matrices = tensors.filter(({ name, ne }) => name.startsWith("blk.") && ne.length === 2);
    expect(lattices.toSorted()).toEqual(matrices.map(({ name }) => name).toSorted());
    expect(lattices.every((name) => types.get(name) === "Q4_0")).toBe(true);
    expect(types.get("token_embd.weight")).not.toBe("Q4_0");
    expect(balance).toEqual([]);
    const plain = await write({ source, types: ["BF16"] });
    const expected = await bfloatsOf(plain.files[0]!);
    const kept = await bfloatsOf(files[0]!);
    for (const name of lattices) {
      const values = kept.get(name)!;
      const before = expected.get(name)!;
      // Zeros have no sign in Q4_0.
      expect(values.findIndex((value, at) => value !== before[at])).toBe(-1);
    }
  });

  it("is left to the mix where it is asked for, and to a type that is named", async () => {
    const source = await latticeCheckpoint(32);
    const off = await write({ source, types: ["Q4_K_M"], keepLattice: false });
    expect([off.lattices, off.roundedLattices]).toEqual([[], []]);
    const named = await write({
      source,
      types: ["Q4_K_M"],
      typeNames: { tensorTypes: [{ pattern: "blk.0.attn_q", type: "Q6_K" }] },
    });
    expect(named.roundedLattices).toEqual(["blk.0.attn_q.weight"]);
    expect(named.lattices).not.toContain("blk.0.attn_q.weight");
    const { types, ggml } = {
      types: await write({ source, types: ["Q2_K"] }),
      ggml: await write({ source, types: ["Q4_0"], method: "ggml" }),
    };
    expect(types.roundedLattices).toContain("blk.0.attn_q.weight");
    expect(ggml.lattices).toEqual([]);
  });
});

it("finds no lattice in an ordinary checkpoint, nor in a GGUF of it", async () => {
  for (const source of [nanoCheckpoint, await convertFixture("BF16")]) {
    const { lattices, roundedLattices } = await write({ source, types: ["Q4_K_M"], balance: "off" });
    expect([lattices, roundedLattices]).toEqual([[], []]);
  }
});
