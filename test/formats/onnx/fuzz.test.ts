import { expect, test } from "vitest";
import { encodeModel } from "../../../formats/onnx/codec.js";
import { OnnxError } from "../../../formats/onnx/errors.js";
import { readOnnx } from "../../../formats/onnx/read.js";
import { campaignRuns } from "../../support/campaign.js";
import { MemorySource } from "../gguf/support.js";
import { everything, smallFile } from "./support.js";

/** Numbers from 0 to below `limit`, the same on every run (a linear congruential generator). */
function random(seed: number): (limit: number) => number {
  let state = seed;
  return (limit) => {
    state = (Math.imul(state, 1_664_525) + 1_013_904_223) >>> 0;
    return Math.floor((state / 2 ** 32) * limit);
  };
}

/** Reads damaged bytes; whatever comes of it but a model or an error of ours fails the test. */
async function isRead(bytes: Uint8Array, run: string): Promise<boolean> {
  const error: unknown = await readOnnx(new MemorySource(bytes)).then(
    () => undefined,
    (error: unknown) => error,
  );
  expect(error === undefined || error instanceof OnnxError, `${run}: ${String(error)}`).toBe(true);
  return error === undefined;
}

test("a file cut off anywhere is read or refused", async () => {
  for (const sound of [await smallFile(), await encodeModel(everything)]) {
    for (let length = 0; length < sound.length; length++) {
      await isRead(sound.subarray(0, length), `length ${length}`);
    }
    expect(await isRead(sound, "sound")).toBe(true);
  }
});

/** Lengths and tags that lie: single bytes, and runs of them as a long number. */
const HOSTILE = [
  [0x7f],
  [0xff, 0x7f],
  [0xff, 0xff, 0xff, 0xff, 0x07],
  [0xff, 0xff, 0xff, 0xff, 0xff, 0x01],
  [0x80, 0x00],
  [0x0b],
  [0x0c],
];

/** A file with bytes changed, put in or taken out, or with a piece of it in another place. */
function damage(sound: Uint8Array, next: (limit: number) => number): Uint8Array {
  const bytes = Buffer.from(sound);
  const at = next(bytes.length);
  const kind = next(5);
  if (kind === 0) {
    for (let flips = 1 + next(3); flips > 0; flips--) {
      const flip = next(bytes.length);
      bytes[flip] = bytes[flip]! ^ (1 << next(8));
    }
    return bytes;
  }
  if (kind === 1) {
    bytes[at] = next(256);
    return bytes;
  }
  const hostile = Buffer.from(HOSTILE[next(HOSTILE.length)]!);
  if (kind === 2) return Buffer.concat([bytes.subarray(0, at), hostile, bytes.subarray(at + hostile.length)]);
  if (kind === 3) return Buffer.concat([bytes.subarray(0, at), hostile, bytes.subarray(at)]);
  const from = next(bytes.length);
  return Buffer.concat([
    bytes.subarray(0, at),
    bytes.subarray(from, from + next(40)),
    bytes.subarray(at + next(9)),
  ]);
}

test("damaged files are read or refused with an OnnxError", async () => {
  const next = random(7);
  for (const sound of [await smallFile(), await encodeModel(everything)]) {
    let read = 0;
    const runs = campaignRuns(40_000);
    for (let run = 0; run < runs; run++) {
      if (await isRead(damage(sound, next), `run ${run}`)) read += 1;
    }
    // The damage is varied enough to see both outcomes.
    expect(read).toBeGreaterThan(runs / 50);
    expect(read).toBeLessThan(runs * 0.9);
  }
});

test("bytes at random are refused", async () => {
  const next = random(8);
  let read = 0;
  for (let run = 0; run < campaignRuns(20_000); run++) {
    const bytes = Uint8Array.from({ length: next(60) }, () => next(256));
    if (await isRead(bytes, `run ${run}`)) read += 1;
  }
  expect(read).toBe(0);
});
