import { expect, it } from "vitest";
import { allEncoders } from "../../support/encoders.js";
import { randomFrom } from "../../support/weights.js";

const encoded = await allEncoders(32 * 64);

it.each(["Q4_1", "Q5_1"] as const)("gives the offset of %s the sign of the first zero", (type) => {
  const random = randomFrom(9);
  const values = Float32Array.from({ length: 32 * 64 }, (_, i) => {
    const kind = random();
    if (i % 64 < 32 && kind < 0.6) return random();
    return kind < 0.8 ? 0 : -0;
  });
  const plain = encoded(type, values);
  expect(plain.differences).toEqual([-1, -1]);
  const signs = Array.from({ length: 64 }, (_, block) => plain.bytes[(block * plain.bytes.length) / 64 + 3]);
  expect(new Set(signs)).toEqual(new Set([0, 0x80]));
  const weighted = encoded(type, values, new Float32Array(32 * 64).map(random));
  expect(weighted.differences).toEqual([-1, -1]);
});
