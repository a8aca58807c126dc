import { createHash } from "node:crypto";
import { existsSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { describe, expect, it } from "vitest";
import { packageRoot } from "../../src/base/paths.js";
import { decodable, decode } from "../../src/blocks/decode/decode.js";
import { grid } from "../../src/blocks/decode/grids.js";
import { blockType, parseBlockType } from "../../src/blocks/table.js";
import { loadGgmlQuants } from "../support/ggml-quants.js";
import { firstDifference, randomFrom } from "../support/weights.js";

const folder = join(packageRoot, "fixtures/golden");
const golden = JSON.parse(readFileSync(join(folder, "index.json"), "utf8")) as { types: { name: string }[] };
const files = golden.types
  .flatMap(({ name }) => [
    { name, file: name },
    { name, file: `${name}.im` },
  ])
  .filter(({ file }) => existsSync(join(folder, `${file}.bin`)));
const ggml = loadGgmlQuants();

describe("decode", () => {
  it("has golden vectors to be held to", () => {
    expect(files.length).toBe(48);
  });

  it.each(files)("gives ggml's values for $file, bit for bit", ({ name, file }) => {
    const expected = readFileSync(join(folder, `${file}.f32`));
    const out = new Float32Array(expected.length / 4);
    decode(parseBlockType(name).name, readFileSync(join(folder, `${file}.bin`)), out);
    expect(firstDifference(new Uint8Array(out.buffer), expected)).toBe(-1);
  });

  const packed = decodable.filter((name) => !/^B?F/.test(name));
  it.runIf(ggml !== undefined).each(packed)("gives ggml's values for random blocks of %s", (name) => {
    // Random bytes reach every code and scales of both signs, infinite and NaN ones included.
    const blocks = 200;
    const { values, bytes } = blockType(name);
    const random = randomFrom(parseBlockType(name).id);
    const input = Uint8Array.from({ length: blocks * bytes }, () => random() * 256);
    const out = new Float32Array(blocks * values);
    decode(name, input, out);
    const expected = ggml?.dequantize(name, input) ?? new Float32Array();
    const wrong = out.findIndex((value, index) => !Object.is(value, expected[index]));
    expect(wrong).toBe(-1);
  });

  it("refuses lengths that do not match and types that are no weights", () => {
    expect(() => decode("Q8_0", new Uint8Array(33), new Float32Array(32))).toThrow(
      expect.objectContaining({ code: "wrong-length" }),
    );
    expect(() => decode("Q8_0", new Uint8Array(34), new Float32Array(31))).toThrow(
      expect.objectContaining({ code: "wrong-length" }),
    );
    expect(() => decode("I32", new Uint8Array(4), new Float32Array(1))).toThrow(
      expect.objectContaining({ code: "not-decodable" }),
    );
  });
});

describe("the lattice points", () => {
  // SHA-256 of ggml's tables, as little-endian words.
  it.each([
    ["iq2xxs", "05826b5d3e472a3a78f196be62ac78acf81df0f909626e12ab9fa2a5d490dd54"],
    ["iq2xs", "06e47aaca60b4dc1d9b5a3f34540437058a6b142b4d7a59d5ded769b4d1bf1de"],
    ["iq2s", "e1aa1473412b0552c2174c30ef22ab4073f6a181b85a17056e8249bd2932fd88"],
    ["iq3xxs", "46e35f5a997efdee6c99ce57854c8a0d4f0ff8ca57e5e8a60c0793ea580acf5d"],
    ["iq3s", "bd1af4945a1717c65610b0284e4628b9a1ba3b306fae3a06f6e5f597356e349f"],
    ["iq1s", "07540ffc1aeaf6ad4d97e96b0fcc765aae39671d4ae4a27bbd0e796fde167c6a"],
  ] as const)("unpack to ggml's table %s", (name, sha256) => {
    expect(createHash("sha256").update(grid(name)).digest("hex")).toBe(sha256);
  });
});
