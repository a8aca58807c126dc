import { existsSync } from "node:fs";
import { mkdir, readFile, rm } from "node:fs/promises";
import { join } from "node:path";
import { expect, it } from "vitest";
import { readJournal, type TensorHash } from "../../src/quantize/journal.js";
import { makeCheckpoint } from "../support/checkpoints.js";
import { lapidary } from "../support/command.js";
import { filesIn, scratch } from "./nano.js";

const FULL = process.env["LAPIDARY_CAMPAIGN"] === "full";
const KILLS = FULL ? 50 : 5;
const SEED = 20_260_725;

/** Numbers from 0 to 1 that are the same for every run of the test. */
function random(seed: number): () => number {
  let state = seed | 1;
  return () => {
    state ^= state << 13;
    state ^= state >>> 17;
    state ^= state << 5;
    return (state >>> 0) / 2 ** 32;
  };
}

interface Report {
  readonly artifacts: readonly {
    readonly outcome: string;
    readonly resumed: number;
    readonly damaged: number;
  }[];
}

it(
  `a conversion that is killed ${KILLS} times at any moment loses no finished tensor and no byte`,
  { timeout: FULL ? 900_000 : 240_000 },
  async () => {
    const root = scratch();
    const source = join(root, "source");
    await makeCheckpoint(source, { hidden: 768, layers: 8, text: { intermediate_size: 4096 } });
    const args = (out: string): string[] => [
      ...["quantize", source, "--type", "q6_k", "--out", out, "--threads", "1", "--json"],
    ];
    const undisturbed = join(root, "undisturbed.gguf");
    const started = performance.now();
    expect(await lapidary(args(undisturbed))).toMatchObject({ code: 0 });
    const duration = performance.now() - started;
    const expected = await readFile(undisturbed);

    const next = random(SEED);
    const folder = join(root, "killed");
    const out = join(folder, "out.gguf");
    let kills = 0;
    /** Tensors that runs found finished, and did not do again. */
    let kept = 0;
    // Enough of them, and some that had something to lose.
    const killing = (): boolean => (kills < KILLS || kept === 0) && kills < 4 * KILLS;
    while (killing()) {
      await mkdir(folder);
      let finished: ReadonlyMap<number, TensorHash> = new Map();
      for (;;) {
        const run = await lapidary(args(out), killing() ? { killAfterMs: next() * duration } : {});
        if (run.signal === null) {
          expect(run).toMatchObject({ code: 0 });
          const [artifact] = (JSON.parse(run.stdout) as Report).artifacts;
          expect(artifact?.damaged).toBe(0);
          if (artifact?.outcome !== "unchanged") expect(artifact?.resumed).toBe(finished.size);
          break;
        }
        expect(run.signal).toBe("SIGKILL");
        kills += 1;
        const journal = await readJournal(out);
        // Between the end of the work and that of the process.
        if (journal === undefined && existsSync(out)) break;
        if (existsSync(out)) expect(journal?.complete).toHaveLength(1);
        // What is finished stays so, with the same bytes, whenever the kill comes.
        const now = journal?.finished ?? new Map<number, TensorHash>();
        for (const [index, hash] of finished) expect(now.get(index)).toEqual(hash);
        kept += finished.size;
        finished = now;
      }
      kept += finished.size;
      expect((await readFile(out)).equals(expected)).toBe(true);
      expect((await filesIn(folder)).filter((name) => name !== "out.gguf.lock")).toEqual(["out.gguf"]);
      await rm(folder, { recursive: true });
    }
    expect(kills).toBeGreaterThanOrEqual(KILLS);
    expect(kept).toBeGreaterThan(0);
    if (FULL)
      process.stderr.write(
        `campaign: ${kills} kills, ${kept} tensors found finished, ${duration.toFixed(0)} ms a run\n`,
      );
  },
);
