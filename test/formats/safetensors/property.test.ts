import { mkdtemp, readFile, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import * as fc from "fast-check";
import { afterAll, beforeAll, expect, test } from "vitest";
import { FormatError } from "../../../formats/errors.js";
import { openFile } from "../../../formats/file-source.js";
import { openCheckpoint, readHeader, readTensorRange } from "../../../formats/safetensors/read.js";
import { DTYPE_BITS, type Dtype } from "../../../formats/safetensors/types.js";
import {
  type NewTensor,
  writeSafetensors,
  writeShardedSafetensors,
} from "../../../formats/safetensors/write.js";
import { packageRoot } from "../../../src/base/paths.js";
import { MemorySource } from "./support.js";

let folder: string;

beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), "lapidary-property-"));
});

afterAll(async () => {
  await rm(folder, { recursive: true, force: true });
});

const bytesOf = ({ dtype, shape }: NewTensor): number =>
  shape.reduce((product, size) => product * size, 1) * (DTYPE_BITS[dtype] / 8);

const text = fc.string({ unit: "binary", maxLength: 12 }).filter((value) => !/\p{Cs}/u.test(value));

const tensor = fc
  .record({
    name: fc.oneof(text, fc.constantFrom("__proto__", "constructor", "0", "toString", "weight_map")),
    dtype: fc.constantFrom(...(Object.keys(DTYPE_BITS) as Dtype[])),
    shape: fc.array(fc.integer({ min: 0, max: 6 }), { maxLength: 4 }),
  })
  .filter((tensor) => tensor.name !== "__metadata__" && Number.isInteger(bytesOf(tensor)));

const tensors = fc.uniqueArray(tensor, { maxLength: 12, selector: ({ name }) => name });
const metadata = fc.option(fc.dictionary(text, text, { maxKeys: 4 }), { nil: undefined });

test("what is written is read: names, dtypes, shapes, metadata and every byte", async () => {
  const property = fc.asyncProperty(
    tensors,
    metadata,
    fc.integer({ min: 1, max: 100 }),
    fc.boolean(),
    async (tensors, metadata, size, sharded) => {
      const run = await mkdtemp(join(folder, "run-"));
      const valueAt = (name: string, index: number): number =>
        (name.length * 31 + index * 7 + bytesSeed) & 255;
      const bytesSeed = size;
      const contents = metadata === undefined ? { tensors } : { tensors, metadata };
      const fill = async (name: string, write: (chunk: Uint8Array) => Promise<void>): Promise<void> => {
        const length = bytesOf(tensors.find((tensor) => tensor.name === name)!);
        for (let start = 0; start < length; start += size) {
          await write(
            Uint8Array.from({ length: Math.min(size, length - start) }, (_, i) => valueAt(name, start + i)),
          );
        }
      };
      const many = sharded && tensors.length > 0;
      await (many
        ? writeShardedSafetensors(run, contents, size * 4, fill)
        : writeSafetensors(join(run, "model.safetensors"), contents, fill));
      const checkpoint = await openCheckpoint(run);
      expect({ ...checkpoint.metadata }).toEqual({ ...metadata });
      expect(new Set(checkpoint.tensors.keys())).toEqual(new Set(tensors.map(({ name }) => name)));
      const sources = await Promise.all(checkpoint.shards.map(({ path }) => openFile(path)));
      for (const { name, dtype, shape } of tensors) {
        const entry = checkpoint.tensors.get(name)!;
        expect(entry).toMatchObject({ dtype, shape });
        const bytes = new Uint8Array(entry.byteLength);
        await readTensorRange(sources, entry, bytes);
        expect(bytes).toEqual(Uint8Array.from(bytes, (_, index) => valueAt(name, index)));
      }
      await Promise.all(sources.map((source) => source.close()));
      await rm(run, { recursive: true });
    },
  );
  await fc.assert(property, { seed: 20_260_101, numRuns: 40 });
});

/** Damaged headers end in a FormatError or in entries inside the file; nothing else, and no large reads. */
async function readDamaged(file: Uint8Array): Promise<boolean> {
  const source = new MemorySource(file);
  try {
    const { tensors } = await readHeader(source);
    const end = tensors.reduce((at, { offset, byteLength }) => {
      expect(offset).toBe(at);
      return at + byteLength;
    }, tensors[0]?.offset ?? file.byteLength);
    expect(end).toBe(file.byteLength);
    return true;
  } catch (error) {
    if (!(error instanceof FormatError) || error.message.length > 2000) throw error;
    return false;
  } finally {
    expect(source.largest).toBeLessThanOrEqual(file.byteLength);
  }
}

test("a damaged header is refused cleanly or describes the file byte for byte", async () => {
  const whole = new Uint8Array(await readFile(join(packageRoot, "fixtures", "nano-e", "model.safetensors")));
  // The first tensors alone, so that a flip hits something that matters.
  const path = join(folder, "small.safetensors");
  const header = await readHeader(new MemorySource(whole));
  const few = header.tensors.slice(0, 12).filter(({ byteLength }) => byteLength < 100);
  await writeSafetensors(path, { tensors: few, metadata: header.metadata }, () => Promise.resolve(), {
    sparse: true,
  });
  const small = new Uint8Array(await readFile(path));
  expect(await readDamaged(small)).toBe(true);

  const headerEnd = 8 + new DataView(small.buffer).getUint32(0, true);
  const flip = fc.record({ at: fc.nat(headerEnd - 1), value: fc.nat(255) });
  const structural = fc.record({
    at: fc.nat(headerEnd - 1),
    value: fc.constantFrom(...Buffer.from('{}[]",:\\09-.e u')),
  });
  const damage = fc.array(fc.oneof(flip, structural), { minLength: 1, maxLength: 4 });
  let accepted = 0;
  let refused = 0;
  const count = (fine: boolean): void => {
    if (fine) accepted++;
    else refused++;
  };
  await fc.assert(
    fc.asyncProperty(damage, async (damage) => {
      const file = small.slice();
      for (const { at, value } of damage) file[at] = value;
      count(await readDamaged(file));
    }),
    { seed: 7, numRuns: 3000 },
  );
  // Flips inside names are harmless, most others are not.
  expect(accepted).toBeGreaterThan(100);
  expect(refused).toBeGreaterThan(1000);
  for (let length = 0; length < small.byteLength; length++) {
    expect(await readDamaged(small.subarray(0, length))).toBe(false);
  }
});
