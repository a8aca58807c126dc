import * as fc from "fast-check";
import { beforeAll, describe, expect, it } from "vitest";
import type {
  Effort,
  FeedbackInput,
  FeedbackOutput,
  FeedbackTarget,
} from "../../../src/blocks/feedback/problem.js";
import { roundWithFeedback } from "../../../src/blocks/feedback/reference.js";
import { FeedbackKernels } from "../../../src/blocks/kernels/feedback-kernels.js";
import { compileKernels } from "../../../src/blocks/kernels/load.js";
import { searchers } from "../../../src/blocks/search/search.js";
import { blockOf } from "../../../src/blocks/feedback/problem.js";
import { campaignRuns } from "../../support/campaign.js";
import { weights, withinHalf } from "../../support/weights.js";
import { normals, problem } from "./support.js";

let kernels: FeedbackKernels;

beforeAll(async () => {
  kernels = new FeedbackKernels(await compileKernels());
});

const codes: readonly FeedbackTarget[] = ([2, 4, 8] as const).flatMap((bits) =>
  [16, 64, 256].flatMap((block) => [false, true].map((zeroPoints) => ({ bits, block, zeroPoints }))),
);
const targets: readonly FeedbackTarget[] = [...searchers.keys(), ...codes];

function byKernels(
  target: FeedbackTarget,
  width: number,
  effort: Effort,
  input: FeedbackInput,
): FeedbackOutput {
  const rows = input.values.length / width;
  const regions = kernels.open(target, { rows, width, effort, rowFeedback: true });
  for (const [name, region] of Object.entries(regions) as [keyof FeedbackInput, Float32Array][]) {
    region.set(input[name]);
  }
  return kernels.round();
}

describe.each(targets.map((target) => ({ target, name: JSON.stringify(target) })))(
  "kernels of $name",
  ({ target }) => {
    const { values } = blockOf(target);

    it("give the reference's bytes and numbers", () => {
      fc.assert(
        fc.property(
          fc.integer({ min: 1, max: Math.min(3, 256 / values) }),
          fc.constantFrom<Effort>(0, 1, 2),
          fc.integer({ min: 1, max: 1000 }),
          fc.option(weights(8 * 256, { min: -40, max: 0 }), { nil: undefined }),
          (blocks, effort, seed, difficult) => {
            const width = blocks * values;
            const rows = 8;
            const plain = problem(rows, width, seed);
            const input: FeedbackInput = {
              ...plain,
              values:
                difficult === undefined ? plain.values : withinHalf(difficult.slice(0, rows * width), 1000),
              carried: normals(rows * width, seed, 0.003),
              added: normals(rows * width, seed + 1, 0.003),
            };
            const expected = roundWithFeedback(target, { rows, width, effort, rowFeedback: true }, input);
            expect(byKernels(target, width, effort, input)).toEqual(expected);
          },
        ),
        // What is always run takes all steps.
        { seed: 31, numRuns: campaignRuns(20), examples: [[1, 2, 5, undefined]] },
      );
    });
  },
);

describe("FeedbackKernels", () => {
  it("refuses what no search knows, values that are not finite, and to round before anything is opened", async () => {
    expect(() => kernels.open("F16", { rows: 4, width: 256, effort: 0, rowFeedback: false })).toThrow(
      /cannot be rounded to F16/,
    );
    const input = problem(4, 64, 3);
    input.values[70] = Number.NaN;
    expect(() => byKernels("Q4_0", 64, 0, input)).toThrow(/row 1 .* not finite/);
    const fresh = new FeedbackKernels(await compileKernels());
    expect(() => fresh.round()).toThrow(/open was not called/);
  });

  it("keeps a factor from one chunk of rows to the next", () => {
    const input = problem(8, 64, 5);
    const first = byKernels("Q4_0", 64, 1, input).blocks.slice();
    const shape = { rows: 8, width: 64, effort: 1, rowFeedback: true } as const;
    kernels.open("Q4_0", shape).values.set(input.values);
    expect(kernels.round().blocks).toEqual(first);
  });
});
