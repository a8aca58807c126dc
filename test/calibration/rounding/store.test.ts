import { mkdtemp, readFile, rm, stat, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { beforeEach, describe, expect, it } from "vitest";
import {
  makeRoundingStore,
  openRoundingStore,
  type RoundedKey,
  type RoundingHeader,
} from "../../../calibration/rounding/store.js";
import { encode } from "../../../src/blocks/encode/encode.js";
import { decode } from "../../../src/blocks/decode/decode.js";
import { decodeNBits } from "../../../src/blocks/nbits/decode.js";
import { encodeNBits } from "../../../src/blocks/nbits/encode.js";
import { scratchFolder } from "../../support/convert.js";
import { normals } from "../../support/matrices.js";

const header: RoundingHeader = {
  checkpoint: [{ file: "model.safetensors", bytes: 12, sha256: "a".repeat(64) }],
  statistics: "b".repeat(64),
  method: { order: "parallel" },
};
const figures = {
  method: "gptq",
  effort: 1,
  damping: { columns: 0.01, rows: null },
  groupRows: 1,
  loss: 0.25,
  divergence: null,
} as const;
const rows = 6;
const columns = 256;
const values = Float32Array.from(normals(1, rows * columns));
const blocks = new Uint8Array(rows * 144);
encode("Q4_K", values, blocks);
const plain: RoundedKey = { tensor: "layers.0.mlp.down_proj.weight", target: "Q4_K" };
const type = { bits: 2, block: 128, zeroPoints: true } as const;
const codes = encodeNBits(type, columns, values);
const coded: RoundedKey = { tensor: plain.tensor, target: type };

let folder: string;

beforeEach(async () => {
  folder = join(await mkdtemp(join(scratchFolder(), "rounding-")), "new");
});

async function filled() {
  const store = await makeRoundingStore(folder, header);
  await store.put({ ...figures, ...plain, rows, columns }, [blocks]);
  await store.put({ ...figures, ...coded, rows, columns }, [codes.codes, codes.scales, codes.zeroPoints]);
  return store;
}

describe("RoundingStore", () => {
  it("gives what was put into it, also after it was opened anew", async () => {
    const written = await filled();
    const store = await openRoundingStore(folder, header);
    expect(store.tensors).toEqual(written.tensors);
    await store.check(plain);
    await store.check(coded);
    const [piece] = store.pieces(plain);
    expect((await readFile(piece!.path)).subarray(piece!.offset, piece!.offset + piece!.bytes)).toEqual(
      Buffer.from(blocks),
    );
    const decoded = new Float32Array(rows * columns);
    decode("Q4_K", blocks, decoded);
    expect(await store.rows(plain, 0, rows)).toEqual(decoded);
    expect(await store.rows(plain, 4, 2)).toEqual(decoded.slice(4 * columns));
    decodeNBits(type, columns, codes, decoded);
    expect(await store.rows(coded, 1, 3)).toEqual(decoded.slice(columns, 4 * columns));
  });

  it("puts pieces one after the other", async () => {
    const store = await filled();
    const pieces = store.pieces(coded);
    expect(pieces.map(({ offset, bytes }) => [offset, bytes])).toEqual([
      [0, codes.codes.length],
      [codes.codes.length, codes.scales.length],
      [codes.codes.length + codes.scales.length, codes.zeroPoints.length],
    ]);
    expect((await stat(pieces[0]!.path)).size).toBe(store.get(coded).byteLength);
  });

  it("replaces a tensor that is put again", async () => {
    const store = await filled();
    const others = new Uint8Array(rows * 144);
    await store.put({ ...figures, ...plain, rows, columns, effort: 2 }, [others]);
    const again = await openRoundingStore(folder);
    expect(again.tensors).toHaveLength(2);
    expect(again.get(plain).effort).toBe(2);
    await again.check(plain);
  });

  it("takes up what another run has left, and refuses what is of something else", async () => {
    await filled();
    expect((await makeRoundingStore(folder, header)).tensors).toHaveLength(2);
    const others: [Partial<RoundingHeader>, RegExp][] = [
      [
        { checkpoint: [{ ...header.checkpoint[0]!, sha256: "c".repeat(64) }] },
        /another checkpoint: model\.safetensors a{64}, expected model\.safetensors c{64}/,
      ],
      [{ statistics: "d".repeat(64) }, /another statistics: b{64}, expected d{64}/],
      [{ method: { order: "sequential" } }, /another method: order: parallel, expected sequential/],
    ];
    for (const [other, message] of others) {
      await expect(makeRoundingStore(folder, { ...header, ...other })).rejects.toMatchObject({
        code: "other-rounding",
        exitCode: 2,
        message: expect.stringMatching(message) as string,
      });
    }
  });

  it("names what is not there", async () => {
    await expect(openRoundingStore(folder)).rejects.toMatchObject({ code: "rounding-missing", exitCode: 2 });
    const store = await filled();
    expect(() => store.get({ ...plain, target: "Q5_K" })).toThrow(
      /has no layers\.0\.mlp\.down_proj\.weight rounded to Q5_K/,
    );
    await rm(store.pieces(plain)[0]!.path);
    await expect(store.check(plain)).rejects.toMatchObject({ code: "rounding-damaged" });
  });

  it("sees every kind of damage to a file", async () => {
    const store = await filled();
    const { path } = store.pieces(plain)[0]!;
    const flipped = blocks.slice();
    flipped[100]! ^= 1;
    await writeFile(path, flipped);
    await expect(store.check(plain)).rejects.toThrow(/has the SHA-256/);
    await writeFile(path, blocks.subarray(1));
    await expect(store.check(plain)).rejects.toThrow(/has 863 bytes, expected 864/);
    await expect(store.rows(plain, 0, 1)).rejects.toThrow(/has 863 bytes, expected 864/);
  });

  it("sees damage to the list", async () => {
    await filled();
    const path = join(folder, "rounding.json");
    const text = await readFile(path, "utf8");
    const cases: [string | RegExp, string, RegExp][] = [
      ["}", "", /is not JSON/],
      ['"formatVersion":1', '"formatVersion":2', /formatVersion/],
      ['"target":"Q4_K"', '"target":"Q4_X"', /type "Q4_X", which is not known/],
      ['"target":"Q4_K"', '"target":"I8"', /type "I8", which is not known/],
      ['"target":"Q4_K"', '"target":"Q6_K"', /has 864 bytes, expected 1260/],
      ['"columns":256', '"columns":255', /no whole blocks/],
      [/"file":"[0-9a-f]{16}/, '"file":"0123456789abcdef', /expected its own file/],
      [/"file":"(?=[0-9a-f]{16})/, '"file":"../', /file/],
      ['"byteLength":864', '"byteLength":1e300', /byteLength/],
    ];
    for (const [what, by, message] of cases) {
      await writeFile(path, text.replace(what, by));
      await expect(openRoundingStore(folder)).rejects.toMatchObject({
        code: "rounding-damaged",
        message: expect.stringMatching(message) as string,
      });
    }
  });
});
