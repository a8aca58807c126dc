import { existsSync } from "node:fs";
import { mkdir, readFile, rm } from "node:fs/promises";
import { join } from "node:path";
import { expect, it } from "vitest";
import { readJournal, type TensorHash } from "../../src/quantize/journal.js";
import { fullCampaign } from "../support/campaign.js";
import { makeCheckpoint } from "../support/checkpoints.js";
import { type CommandResult, lapidary } from "../support/command.js";
import { filesIn, scratch } from "./nano.js";

const KILLS = fullCampaign ? 50 : 5;
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

interface Artifact {
  readonly outcome: string;
  readonly resumed: number;
  readonly damaged: number;
}

/** One output that is begun, killed, begun again … until it is there. */
class Victim {
  readonly #args: readonly string[];
  readonly #out: string;
  /** Tensors that the last run left finished. */
  #finished: ReadonlyMap<number, TensorHash> = new Map();
  kills = 0;
  /** Tensors that runs found finished, and did not do again. */
  kept = 0;
  readonly problems: string[] = [];

  constructor(args: readonly string[], out: string) {
    this.#args = args;
    this.#out = out;
  }

  /** @returns whether the output is there */
  async run(killAfterMs: number | undefined): Promise<boolean> {
    const run = await lapidary([...this.#args, this.#out], killAfterMs === undefined ? {} : { killAfterMs });
    if (run.signal === null) return this.#completed(run);
    this.kills += 1;
    const journal = await readJournal(this.#out);
    const there = existsSync(this.#out);
    // Between the end of the work and that of the process.
    if (journal === undefined && there) return true;
    if (there && journal?.complete === undefined) this.problems.push("a file that the journal does not know");
    // What is finished stays so, with the same bytes, whenever the kill comes.
    const now = journal?.finished ?? new Map<number, TensorHash>();
    for (const [index, { hash }] of this.#finished) {
      if (now.get(index)?.hash !== hash) this.problems.push(`tensor ${index} is not finished any more`);
    }
    this.kept += this.#finished.size;
    this.#finished = now;
    return false;
  }

  #completed({ code, stdout, stderr }: CommandResult): true {
    if (code !== 0) throw new Error(stderr);
    const [artifact] = (JSON.parse(stdout) as { artifacts: Artifact[] }).artifacts;
    if (artifact?.damaged !== 0) this.problems.push("tensors are damaged");
    if (artifact?.outcome !== "unchanged" && artifact?.resumed !== this.#finished.size)
      this.problems.push(`${artifact?.resumed} tensors are kept of ${this.#finished.size}`);
    this.kept += this.#finished.size;
    return true;
  }
}

it(
  `a conversion that is killed ${KILLS} times at any moment loses no finished tensor and no byte`,
  { timeout: fullCampaign ? 900_000 : 240_000 },
  async () => {
    const root = scratch();
    const source = join(root, "source");
    await makeCheckpoint(source, { hidden: 768, text: { intermediate_size: 4096 } });
    const args = ["quantize", source, "--type", "q6_k", "--threads", "1", "--json", "--out"];
    const undisturbed = join(root, "undisturbed.gguf");
    const started = performance.now();
    expect(await lapidary([...args, undisturbed])).toMatchObject({ code: 0 });
    const duration = performance.now() - started;
    const expected = await readFile(undisturbed);

    const next = random(SEED);
    const folder = join(root, "killed");
    const out = join(folder, "out.gguf");
    let kills = 0;
    let kept = 0;
    // Enough of them, and some that had something to lose.
    const killing = (found: number): boolean => kills < KILLS || (found === 0 && kills < 4 * KILLS);
    while (killing(kept)) {
      await mkdir(folder);
      const victim = new Victim(args, out);
      let there = false;
      while (!there) {
        const { kills: before } = victim;
        there = await victim.run(killing(kept + victim.kept) ? next() * duration : undefined);
        kills += victim.kills - before;
      }
      kept += victim.kept;
      expect(victim.problems).toEqual([]);
      expect((await readFile(out)).equals(expected)).toBe(true);
      expect((await filesIn(folder)).filter((name) => name !== "out.gguf.lock")).toEqual(["out.gguf"]);
      await rm(folder, { recursive: true });
    }
    expect(kills).toBeGreaterThanOrEqual(KILLS);
    expect(kept).toBeGreaterThan(0);
    process.stderr.write(
      `${kills} kills within ${duration.toFixed(0)} ms: ${kept} finished tensors found and kept\n`,
    );
  },
);
