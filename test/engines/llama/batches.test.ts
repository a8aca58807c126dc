import * as fc from "fast-check";
import { describe, expect, it } from "vitest";
import { summarize } from "../../../src/engines/speed.js";
import { planBatches } from "../../../src/engines/llama/batches.js";
import { LogTail, MARK } from "../../../src/engines/llama/log-tail.js";

describe("planBatches", () => {
  it("fills up with scored positions after those that only fill the cache", () => {
    expect([...planBatches(511, 256, 512, 128)]).toEqual([
      { start: 0, stop: 384, rows: 128 },
      { start: 384, stop: 511, rows: 127 },
    ]);
    expect([...planBatches(1023, 1022, 512, 128)]).toEqual([
      { start: 0, stop: 512, rows: 0 },
      { start: 512, stop: 1023, rows: 1 },
    ]);
  });

  it("covers every position once, scores those from first on, and keeps both limits", () => {
    const sizes = fc.record({
      end: fc.integer({ min: 1, max: 3000 }),
      share: fc.double({ min: 0, max: 1, noNaN: true }),
      maxTokens: fc.integer({ min: 1, max: 600 }),
      maxRows: fc.integer({ min: 1, max: 600 }),
    });
    fc.assert(
      fc.property(sizes, ({ end, share, maxTokens, maxRows }) => {
        const first = Math.floor(share * (end - 1));
        const batches = [...planBatches(end, first, maxTokens, maxRows)];
        const joins = batches.every(({ start }, i) => start === (batches[i - 1]?.stop ?? 0));
        const sound = batches.every(
          ({ start, stop, rows }) =>
            stop > start &&
            stop - start <= maxTokens &&
            rows <= maxRows &&
            rows === Math.max(0, stop - Math.max(start, first)),
        );
        expect({ joins, sound, end: batches.at(-1)?.stop }).toEqual({ joins: true, sound: true, end });
      }),
      { seed: 7, numRuns: 200 },
    );
  });
});

describe("summarize", () => {
  it("gives mean and sample deviation", () => {
    expect(summarize("prompt", 8, [2, 4, 4, 4, 5, 5, 7, 9])).toMatchObject({ mean: 5, tokens: 8 });
    expect(summarize("prompt", 8, [2, 4, 4, 4, 5, 5, 7, 9]).deviation).toBeCloseTo(Math.sqrt(32 / 7), 12);
    expect(summarize("generation", 1, [3])).toMatchObject({ mean: 3, deviation: 0 });
  });
});

describe("LogTail", () => {
  it("puts lines together across chunks and quotes those that tell a reason", () => {
    const log = new LogTail();
    log.push("load_model: reading 3 ten");
    log.push("sors\nload_model: error loading model: tensor is cut");
    log.push("\r\n- kv 36: unknown_token_id u32 = 3\nload_model: failed to load model\nbye\n");
    expect(log.reason(0)).toBe("error loading model: tensor is cut");
    expect(log.reason(4)).toBe("bye");
    expect(log.count).toBe(5);
  });

  it("waits for a mark that comes late, knows one that came early, and gives up on one that does not come", async () => {
    const log = new LogTail();
    log.push(`${MARK}early\n`);
    await log.reached(`${MARK}early`, 60_000);
    const late = log.reached(`${MARK}late`, 60_000);
    log.push(`text\n${MARK}la`);
    log.push("te\n");
    await late;
    await log.reached(`${MARK}never`, 1);
    expect(log.reason(0)).toBe("text");
  });

  it("keeps only the last lines, and only the start of long ones", () => {
    const log = new LogTail();
    for (let i = 0; i < 1000; i++) log.push(`error ${i} ${"x".repeat(1000)}\n`);
    const [last] = log.reason(999).split("; ");
    expect(last).toMatch(/^error 999 x+$/);
    expect(last!.length).toBeLessThanOrEqual(500);
    expect(log.reason(0).split("; ").length).toBe(3);
  });
});
