import { describe, expect, test } from "vitest";
import { GgufError } from "../../../formats/gguf/errors.js";
import { readGguf } from "../../../formats/gguf/read.js";
import type { GgufFile } from "../../../formats/gguf/types.js";
import type { ByteSource } from "../../../formats/source.js";
import { ggmlAccepts, hasGgml } from "../../support/ggml.js";
import {
  craft,
  type Crafted,
  encodedStrings,
  entry,
  MemorySource,
  string,
  tensorInfo,
  u32,
  u64,
} from "./support.js";

const read = (bytes: Uint8Array): Promise<GgufFile> => readGguf(new MemorySource(bytes));

const STRING = 8;
const ARRAY = 9;
const U32 = 4;
const ALIGNMENT = "general.alignment";

/** Malformed files, each with the code and a word of the error; `lax` where llama.cpp lets it pass. */
const MALFORMED: Record<string, { file: Crafted | Uint8Array; code: string; says: string; lax?: true }> = {
  "an empty file": { file: Buffer.alloc(0), code: "gguf-magic", says: "begin" },
  "three bytes": { file: Buffer.from("GGU"), code: "gguf-magic", says: "begin" },
  "another format": { file: { magic: "FUGG" }, code: "gguf-magic", says: "begin" },
  "version 0": { file: { version: 0 }, code: "gguf-version", says: "version 0" },
  "version 1": { file: { version: 1 }, code: "gguf-version", says: "version 1" },
  "a later version": { file: { version: 4 }, code: "gguf-version", says: "version 4" },
  "a big-endian file": { file: { version: 0x03000000 }, code: "gguf-version", says: "big-endian" },
  "a header cut short": {
    file: craft({}).subarray(0, 20),
    code: "gguf-truncated",
    says: "metadata count needs 8 bytes",
  },
  "a negative tensor count": { file: { tensorCount: -1n }, code: "gguf-limit", says: "tensor count" },
  "a negative key count": { file: { keyCount: -1n }, code: "gguf-limit", says: "metadata count" },
  "2^30 tensors": { file: { tensorCount: 2 ** 30 }, code: "gguf-limit", says: "tensors" },
  "2^30 keys": { file: { keyCount: 2 ** 30 }, code: "gguf-limit", says: "metadata keys" },
  "more keys than bytes": { file: { keyCount: 60_000 }, code: "gguf-truncated", says: "left" },
  "more tensors than bytes": { file: { tensorCount: 60_000 }, code: "gguf-truncated", says: "left" },
  "an empty key": { file: { entries: [entry("", 0, Buffer.of(1))] }, code: "gguf-name", says: "empty" },
  "a key of 65,536 bytes": {
    file: { entries: [entry("k".repeat(65_536), 0, Buffer.of(1))] },
    code: "gguf-limit",
    says: "more than 65535",
    lax: true,
  },
  "a key longer than the file": {
    file: { entries: [Buffer.concat([u64(1000), Buffer.from("key")])] },
    code: "gguf-truncated",
    says: "metadata key 0 needs 1000 bytes",
  },
  "a key of 2^64 - 1 bytes": {
    file: { entries: [Buffer.concat([u64(-1n), Buffer.alloc(40)])] },
    code: "gguf-limit",
    says: "2^53",
  },
  "a key that is not UTF-8": {
    file: { entries: [entry(Uint8Array.of(0x6b, 0xff), 0, Buffer.of(1))] },
    code: "gguf-text",
    says: "UTF-8",
    lax: true,
  },
  "a key with a NUL byte": {
    file: { entries: [entry("k\0", 0, Buffer.of(1))] },
    code: "gguf-name",
    says: "NUL",
    lax: true,
  },
  "a key given twice": {
    file: { entries: [entry("k", 0, Buffer.of(1)), entry("k", STRING, string(""))] },
    code: "gguf-name",
    says: "twice",
  },
  "an unknown value type": {
    file: { entries: [entry("k", 13, Buffer.alloc(8))] },
    code: "gguf-metadata",
    says: "unknown type 13",
  },
  "an unknown element type": {
    file: { entries: [entry("k", ARRAY, u32(77), u64(0))] },
    code: "gguf-metadata",
    says: "unknown type 77",
  },
  "an array of arrays": {
    file: { entries: [entry("k", ARRAY, u32(ARRAY), u64(1), u32(0), u64(0))] },
    code: "gguf-metadata",
    says: "array of arrays",
  },
  "an array longer than the file": {
    file: { entries: [entry("k", ARRAY, u32(U32), u64(1_000_000))] },
    code: "gguf-truncated",
    says: "4000000 bytes",
  },
  "an array of 2^31 elements": {
    file: { entries: [entry("k", ARRAY, u32(0), u64(2 ** 31))] },
    code: "gguf-limit",
    says: "elements",
  },
  "more strings than bytes": {
    file: { entries: [entry("k", ARRAY, u32(STRING), u64(100), encodedStrings(["a"]))] },
    code: "gguf-truncated",
    says: "800 bytes",
  },
  "a string in a list longer than the file": {
    file: {
      entries: [entry("k", ARRAY, u32(STRING), u64(2), encodedStrings(["a"]), u64(5000), Buffer.from("b"))],
    },
    code: "gguf-truncated",
    says: "string 1 of",
  },
  "a string in a list of 2^62 bytes": {
    file: {
      entries: [entry("k", ARRAY, u32(STRING), u64(2), encodedStrings(["a"]), u64(2n ** 62n))],
    },
    code: "gguf-limit",
    says: "string 1 of",
  },
  "a string of 2^29 bytes": {
    file: { entries: [entry("k", STRING, u64(2 ** 29))] },
    code: "gguf-limit",
    says: "more than",
  },
  "a string that is not UTF-8": {
    file: { entries: [entry("k", STRING, string(Uint8Array.of(0xc0, 0x80)))] },
    code: "gguf-text",
    says: "UTF-8",
    lax: true,
  },
  "a boolean of 2": {
    file: { entries: [entry("k", 7, Buffer.of(2))] },
    code: "gguf-metadata",
    says: "boolean of value 2",
    lax: true,
  },
  "a boolean of 255 in a list": {
    file: { entries: [entry("k", ARRAY, u32(7), u64(2), Buffer.of(1, 255))] },
    code: "gguf-metadata",
    says: "boolean of value 255",
    lax: true,
  },
  "an alignment of 0": {
    file: { entries: [entry(ALIGNMENT, U32, u32(0))] },
    code: "gguf-alignment",
    says: "power of two",
  },
  "an alignment of 48": {
    file: { entries: [entry(ALIGNMENT, U32, u32(48))] },
    code: "gguf-alignment",
    says: "is 48",
  },
  "an alignment in 64 bits": {
    file: { entries: [entry(ALIGNMENT, 10, u64(32))] },
    code: "gguf-alignment",
    says: "of type u64",
  },
  "an alignment as a list": {
    file: { entries: [entry(ALIGNMENT, ARRAY, u32(U32), u64(1), u32(32))] },
    code: "gguf-alignment",
    says: "of type array",
  },
  "a tensor without a name": {
    file: { tensors: [tensorInfo({ name: "" })] },
    code: "gguf-name",
    says: "empty",
    lax: true,
  },
  "a tensor name of 64 bytes": {
    file: { tensors: [tensorInfo({ name: "n".repeat(64) })] },
    code: "gguf-limit",
    says: "more than 63",
  },
  "a tensor name with a NUL byte": {
    file: { tensors: [tensorInfo({ name: "a\0b" })] },
    code: "gguf-name",
    says: "NUL",
    lax: true,
  },
  "a tensor name given twice": {
    file: { tensors: [tensorInfo(), tensorInfo({ offset: 32 })] },
    code: "gguf-name",
    says: "twice",
  },
  "a tensor without dimensions": {
    file: { tensors: [tensorInfo({ ne: [] })] },
    code: "gguf-tensor-shape",
    says: "0 dimensions",
    lax: true,
  },
  "a tensor of five dimensions": {
    file: { tensors: [tensorInfo({ ne: [1, 1, 1, 1, 1] })] },
    code: "gguf-tensor-shape",
    says: "5 dimensions",
  },
  "2^32 - 1 dimensions": {
    file: { tensors: [tensorInfo({ dimensions: 0xffffffff })] },
    code: "gguf-tensor-shape",
    says: "dimensions",
  },
  "a dimension of 0": {
    file: { tensors: [tensorInfo({ ne: [8, 0] })] },
    code: "gguf-tensor-shape",
    says: "positive",
    lax: true,
  },
  "a negative dimension": {
    file: { tensors: [tensorInfo({ ne: [-8n] })] },
    code: "gguf-limit",
    says: "2^53",
  },
  "dimensions whose product passes 2^63": {
    file: { tensors: [tensorInfo({ ne: [2 ** 32, 2 ** 31, 3] })] },
    code: "gguf-tensor-shape",
    says: "larger than 2^53",
  },
  // llama.cpp takes the wrapped product for a tensor of no elements.
  "dimensions whose product wraps to 0 in 64 bits": {
    file: { tensors: [tensorInfo({ ne: [2 ** 32, 2 ** 31, 4] })] },
    code: "gguf-tensor-shape",
    says: "larger than 2^53",
    lax: true,
  },
  "a tensor type that was retired": {
    file: { tensors: [tensorInfo({ ne: [32], type: 4 })] },
    code: "gguf-tensor-type",
    says: "type id 4",
  },
  "an unknown tensor type": {
    file: { tensors: [tensorInfo({ type: 43 })] },
    code: "gguf-tensor-type",
    says: "type id 43",
  },
  "a negative tensor type": {
    file: { tensors: [tensorInfo({ type: 0xffffffff })] },
    code: "gguf-tensor-type",
    says: "type id",
  },
  "a tensor type for activations": {
    file: { tensors: [tensorInfo({ ne: [256], type: 15 })] },
    code: "gguf-tensor-type",
    says: "type id 15",
    lax: true,
  },
  "rows that are no whole blocks": {
    file: { tensors: [tensorInfo({ ne: [48, 2], type: 2 })] },
    code: "gguf-tensor-shape",
    says: "multiple of 32",
  },
  "a first tensor that is not at the start": {
    file: { tensors: [tensorInfo({ offset: 32 })] },
    code: "gguf-tensor-offset",
    says: "expected 0",
  },
  "tensors that overlap": {
    file: { tensors: [tensorInfo({ name: "a", ne: [16] }), tensorInfo({ name: "b", offset: 32 })] },
    code: "gguf-tensor-offset",
    says: "expected 64",
  },
  "a gap between tensors": {
    file: { tensors: [tensorInfo({ name: "a" }), tensorInfo({ name: "b", offset: 64 })] },
    code: "gguf-tensor-offset",
    says: "expected 32",
  },
  "an offset that is not aligned": {
    file: { tensors: [tensorInfo({ name: "a", ne: [1] }), tensorInfo({ name: "b", offset: 4 })] },
    code: "gguf-tensor-offset",
    says: "expected 32",
  },
  "an offset beyond 2^53": {
    file: { tensors: [tensorInfo({ offset: 2n ** 63n })] },
    code: "gguf-limit",
    says: "2^53",
  },
  "tensor data that is cut short": {
    file: { tensors: [tensorInfo()], data: 31 },
    code: "gguf-truncated",
    says: "the file has",
    lax: true,
  },
  "a tensor of 2^53 bytes": {
    file: { tensors: [tensorInfo({ ne: [2 ** 51] })] },
    code: "gguf-tensor-shape",
    says: "larger than",
    lax: true,
  },
};

describe("a malformed file", () => {
  test.each(Object.entries(MALFORMED))("is refused: %s", async (_, { file, code, says }) => {
    const bytes = file instanceof Uint8Array ? file : craft(file);
    const error: unknown = await read(bytes).then(
      () => undefined,
      (error: unknown) => error,
    );
    expect(error).toBeInstanceOf(GgufError);
    const { code: found, message } = error as GgufError;
    expect({ found, message }).toEqual({ found: code, message: expect.stringContaining(says) as unknown });
    expect(message).toMatch(/^memory\.gguf: [^\n]+\.$/);
  });

  test.skipIf(!hasGgml).each(Object.entries(MALFORMED))(
    "is refused by llama.cpp too, where not marked as accepted: %s",
    (_, { file, lax = false }) => {
      expect(ggmlAccepts(file instanceof Uint8Array ? file : craft(file))).toBe(lax);
    },
  );

  test("is refused before anything of its claimed size is allocated or read", async () => {
    const bytes = craft({ entries: [entry("k", STRING, u64(2 ** 27))] });
    const source = new MemorySource(bytes);
    await expect(readGguf(source)).rejects.toThrow("134217728 bytes");
    expect(source.bytesRead).toBeLessThanOrEqual(bytes.length);
  });

  test("is refused when its header grows beyond every real one, however large the file", async () => {
    const [first, second] = ["a", "b"].map((key) => entry(key, ARRAY, u32(12), u64(2 ** 26))) as [
      Buffer,
      Buffer,
    ];
    const start = craft({ keyCount: 3, entries: [first] }).subarray(0, 24 + first.length);
    const secondAt = start.length + 2 ** 29;
    // All but the two descriptions is a hole, so that half a gibibyte is announced but not touched.
    const source: ByteSource = {
      name: "sparse.gguf",
      size: 2 ** 40,
      async read(target, position) {
        for (const [at, bytes] of [[0, start] as const, [secondAt, second] as const]) {
          if (position <= at && position + target.length >= at + bytes.length)
            target.set(bytes, at - position);
        }
      },
      async close() {},
    };
    await expect(readGguf(source)).rejects.toThrow("makes the header larger than 1073741824 bytes");
  });
});
