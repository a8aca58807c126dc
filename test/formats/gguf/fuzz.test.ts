import { expect, test } from "vitest";
import { GgufError } from "../../../formats/gguf/errors.js";
import { readGguf } from "../../../formats/gguf/read.js";
import { TENSOR_TYPES } from "../../../formats/gguf/tensor-types.js";
import { gguf } from "../../../formats/gguf/values.js";
import { planGguf } from "../../../formats/gguf/write.js";
import { ggmlAccepts, hasGgml } from "../../support/ggml.js";
import { MemorySource } from "./support.js";

/** A small file with a value of most types and some tensors, all bytes there. */
function soundFile(): Buffer {
  const layout = planGguf({
    metadata: [
      ["general.architecture", gguf.string("gemma4")],
      ["general.alignment", gguf.u32(64)],
      ["a.u8", gguf.u8(3)],
      ["a.f64", gguf.f64(0.1)],
      ["a.yes", gguf.bool(true)],
      ["a.i64", gguf.i64(-5n)],
      ["tokens", gguf.array("string", ["<pad>", "▁the", ""])],
      ["types", gguf.array("i32", [1, 2, 3])],
      ["pattern", gguf.array("bool", [true, false])],
    ],
    tensors: [0, 5, 11, 20].map((index) => ({
      name: `blk.${index}.weight`,
      type: TENSOR_TYPES[index]!.name,
      ne: [TENSOR_TYPES[index]!.blockValues, 2],
    })),
  });
  const bytes = Buffer.alloc(layout.size);
  bytes.set(layout.parts[0]!.header);
  return bytes;
}

/** Numbers from 0 to below `limit`, the same on every run (a linear congruential generator). */
function random(seed: number): (limit: number) => number {
  let state = seed;
  return (limit) => {
    state = (Math.imul(state, 1_664_525) + 1_013_904_223) >>> 0;
    return Math.floor((state / 2 ** 32) * limit);
  };
}

const EXTREMES = [0n, 1n, 2n ** 31n, 2n ** 32n - 1n, 2n ** 53n, 2n ** 61n, 2n ** 63n, 2n ** 64n - 1n];

/** A file with a few bytes changed, a length made extreme, or its end cut off. */
function damage(sound: Buffer, next: (limit: number) => number): Buffer {
  const bytes = Buffer.from(sound);
  const kind = next(4);
  if (kind === 0) return bytes.subarray(0, next(bytes.length));
  if (kind === 1) {
    bytes.writeBigUInt64LE(EXTREMES[next(EXTREMES.length)]!, next(bytes.length - 8));
    return bytes;
  }
  for (let flips = 1 + next(3); flips > 0; flips--) {
    const at = next(bytes.length);
    bytes[at] = kind === 2 ? next(256) : bytes[at]! ^ (1 << next(8));
  }
  return bytes;
}

/** Why we refuse what llama.cpp's header reader lets pass; each is tested by itself in malformed.test.ts. */
const STRICTER = [
  /is not valid UTF-8/,
  /holds a NUL byte/,
  /the name of tensor \d+ is empty/,
  /boolean of value/,
  /has 0 dimensions/,
  /has a dimension that is not a positive integer/,
  /is larger than 2\^53 bytes/,
  /is beyond 2\^53/,
  /ends at byte/,
  /has type id (9|15),/,
];

test("damaged files are read or refused with a GgufError, and never where llama.cpp refuses", async () => {
  const sound = soundFile();
  const next = random(20);
  const verdicts = { read: 0, refused: 0, stricter: 0 };
  for (let run = 0; run < 6000; run++) {
    const bytes = damage(sound, next);
    const error: unknown = await readGguf(new MemorySource(bytes)).then(
      () => undefined,
      (error: unknown) => error,
    );
    // Where there is no llama.cpp to ask, its verdict is taken to be ours.
    const theirs = hasGgml ? ggmlAccepts(bytes) : error === undefined;
    const explained =
      error === undefined
        ? theirs
        : error instanceof GgufError && (!theirs || STRICTER.some((reason) => reason.test(error.message)));
    expect(explained, `run ${run}: ${String(error)}, llama.cpp ${theirs ? "accepts" : "refuses"}`).toBe(true);
    verdicts[error === undefined ? "read" : theirs ? "stricter" : "refused"] += 1;
  }
  // The damage is varied enough to see every outcome.
  expect(verdicts.read).toBeGreaterThan(200);
  expect(verdicts.refused).toBeGreaterThan(1000);
});
