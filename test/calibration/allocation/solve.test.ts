import * as fc from "fast-check";
import { describe, expect, it } from "vitest";
import {
  type Allocation,
  type Item,
  joinItems,
  leastBytes,
  leastLoss,
} from "../../../calibration/allocation/solve.js";
import { LapidaryError } from "../../../src/base/errors.js";

const arbitraryItems: fc.Arbitrary<Item[]> = fc
  .array(fc.array(fc.record({ bytes: fc.nat(60), loss: fc.nat(60) }), { minLength: 1, maxLength: 5 }), {
    minLength: 1,
    maxLength: 5,
  })
  .map((items) =>
    items.map((choices, item) => ({
      name: `w${item}`,
      choices: choices.map((choice, index) => ({ type: `t${index}`, ...choice })),
    })),
  );

/** Bytes and loss of every way to choose. */
function everyWay(items: readonly Item[]): { readonly bytes: number; readonly loss: number }[] {
  return items.reduce(
    (ways, { choices }) =>
      ways.flatMap((way) =>
        choices.map(({ bytes, loss }) => ({ bytes: way.bytes + bytes, loss: way.loss + loss })),
      ),
    [{ bytes: 0, loss: 0 }],
  );
}

/** What the whole of an item's choices spans. */
function span(items: readonly Item[], key: "bytes" | "loss"): number {
  return Math.max(
    ...items.map(({ choices }) => {
      const values = choices.map((choice) => choice[key]);
      return Math.max(...values) - Math.min(...values);
    }),
  );
}

function error(run: () => unknown): LapidaryError {
  try {
    run();
  } catch (thrown) {
    if (thrown instanceof LapidaryError) return thrown;
    throw thrown;
  }
  throw new Error("not refused");
}

function expectSums(items: readonly Item[], { choices, bytes, loss }: Allocation): void {
  const chosen = items.map(({ name }) => choices.get(name)!);
  for (const [index, choice] of chosen.entries()) expect(items[index]!.choices).toContainEqual(choice);
  expect(bytes).toBe(chosen.reduce((sum, choice) => sum + choice.bytes, 0));
  expect(loss).toBe(chosen.reduce((sum, choice) => sum + choice.loss, 0));
}

describe("least loss", () => {
  it("never passes the budget, and is nearly what all ways together offer", () => {
    let [exact, runs] = [0, 0];
    fc.assert(
      fc.property(arbitraryItems, fc.nat(300), (items, budget) => {
        const within = everyWay(items).filter(({ bytes }) => bytes <= budget);
        fc.pre(within.length > 0);
        const best = Math.min(...within.map(({ loss }) => loss));
        const found = leastLoss(items, budget);
        expectSums(items, found);
        expect(found.bytes).toBeLessThanOrEqual(budget);
        expect(found.loss).toBeLessThanOrEqual(best + span(items, "loss"));
        runs++;
        if (found.loss === best) exact++;
      }),
      { seed: 1, numRuns: 500 },
    );
    expect(exact / runs).toBeGreaterThan(0.97);
  });

  it("does not depend on the order of weights and types", () => {
    fc.assert(
      fc.property(arbitraryItems, fc.nat(300), (items, more) => {
        const budget = more + items.reduce((sum, { choices }) => sum + choices[0]!.bytes, 0);
        const turned = items
          .toReversed()
          .map(({ name, choices }) => ({ name, choices: choices.toReversed() }));
        expect([...leastLoss(turned, budget).choices]).toEqual([...leastLoss(items, budget).choices]);
      }),
      { seed: 2 },
    );
  });

  it("says what is needed at least, and leaves what is not needed", () => {
    const items = [
      {
        name: "a",
        choices: [
          { type: "x", bytes: 10, loss: 5 },
          { type: "y", bytes: 20, loss: 1 },
        ],
      },
      { name: "b", choices: [{ type: "x", bytes: 7, loss: 3 }] },
    ];
    const refused = error(() => leastLoss(items, 16));
    expect(refused.message).toContain("17 bytes");
    expect(refused.exitCode).toBe(2);
    expect(leastLoss(items, 17)).toMatchObject({ bytes: 17, loss: 8, price: 0.4 });
    expect(leastLoss(items, 1e9)).toMatchObject({ bytes: 27, loss: 4, price: 0 });
  });

  it("finds what no price finds", () => {
    // The middle choices lie above the hull; two of them fit, one large choice does not leave room for another.
    const choices = [
      { type: "small", bytes: 0, loss: 10 },
      { type: "middle", bytes: 5, loss: 6 },
      { type: "large", bytes: 10, loss: 0 },
    ];
    const found = leastLoss(
      ["a", "b", "c"].map((name) => ({ name, choices })),
      25,
    );
    expect(found).toMatchObject({ bytes: 25, loss: 6 });
  });

  it("takes a second for the weights of the largest model", () => {
    let state = 1;
    const random = (): number => (state = (state * 48271) % 2147483647) / 2147483647;
    const items = Array.from({ length: 600 }, (_, index) => {
      const scale = random();
      return {
        name: `w${index}`,
        choices: Array.from({ length: 15 }, (_, type) => ({
          type: `t${type}`,
          bytes: 1000 + Math.round(type * 100 * (1 + random() / 10)),
          loss: scale * 4 ** -type * (1 + random()),
        })),
      };
    });
    const found = leastLoss(items, 600 * 1500);
    expect(found.bytes).toBeLessThanOrEqual(600 * 1500);
    expect(found.bytes).toBeGreaterThan(600 * 1500 - 20);
  });
});

describe("least bytes", () => {
  it("never passes the loss, and is nearly what all ways together offer", () => {
    fc.assert(
      fc.property(arbitraryItems, fc.nat(200), (items, loss) => {
        const within = everyWay(items).filter((way) => way.loss <= loss);
        fc.pre(within.length > 0);
        const found = leastBytes(items, loss);
        expectSums(items, found);
        expect(found.loss).toBeLessThanOrEqual(loss);
        expect(found.bytes).toBeLessThanOrEqual(
          Math.min(...within.map(({ bytes }) => bytes)) + span(items, "bytes"),
        );
      }),
      { seed: 3, numRuns: 300 },
    );
  });
});

it("refuses what no way of choosing comes to", () => {
  fc.assert(
    fc.property(arbitraryItems, (items) => {
      const ways = everyWay(items);
      const [bytes, loss] = (["bytes", "loss"] as const).map((key) =>
        Math.min(...ways.map((way) => way[key])),
      );
      expect(error(() => leastLoss(items, bytes! - 1)).code).toBe("budget-too-small");
      expect(error(() => leastBytes(items, loss! - 1)).code).toBe("loss-too-small");
    }),
    { seed: 4 },
  );
});

describe("joined weights", () => {
  it("have the types of all, with bytes and losses added", () => {
    const a = {
      name: "a",
      choices: [
        { type: "x", bytes: 1, loss: 4 },
        { type: "y", bytes: 2, loss: 1 },
      ],
    };
    const b = { name: "b", choices: [{ type: "y", bytes: 3, loss: 2 }] };
    expect(joinItems("both", [a, b])).toEqual({ name: "both", choices: [{ type: "y", bytes: 5, loss: 3 }] });
    const refused = error(() => joinItems("both", [b, { name: "c", choices: [a.choices[0]!] }]));
    expect(refused.code).toBe("no-common-type");
  });

  it("are no choices when they are none", () => {
    expect(() => leastLoss([{ name: "a", choices: [] }], 1)).toThrow(RangeError);
    expect(() => leastLoss([{ name: "a", choices: [{ type: "x", bytes: 1, loss: Number.NaN }] }], 1)).toThrow(
      "NaN",
    );
  });
});
