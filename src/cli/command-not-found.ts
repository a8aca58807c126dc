import type { Hook } from "@oclif/core";
import { printable } from "./printable.js";

/** Changes of one letter (put in, taken out, exchanged) that lead from one word to the other. */
function distance(a: string, b: string): number {
  let row = Array.from({ length: b.length + 1 }, (_, column) => column);
  for (let i = 1; i <= a.length; i++) {
    const next = [i];
    for (let j = 1; j <= b.length; j++) {
      const exchanged = (row[j - 1] ?? 0) + (a[i - 1] === b[j - 1] ? 0 : 1);
      next.push(Math.min(exchanged, (row[j] ?? 0) + 1, (next[j - 1] ?? 0) + 1));
    }
    row = next;
  }
  return row[b.length] ?? 0;
}

/**
 * Says that a command does not exist, and which one may be meant. In place of oclif's own plugin, which
 * asks back, exits with 127 and knows no `--json`.
 */
const hook: Hook<"command_not_found"> = async function ({ id: words, argv, config }) {
  // oclif takes all words up to the first flag for a command and its topics.
  const [id = words] = words.split(":");
  const near = config.commandIDs
    .map((name) => ({ name, far: distance(id, name) }))
    .toSorted((a, b) => a.far - b.far)
    .find(({ name, far }) => far <= Math.max(2, name.length / 3));
  const message = `${id} is not a command of lapidary.`;
  const advice =
    near === undefined ? "See lapidary --help." : `Did you mean lapidary ${near.name}? See lapidary --help.`;
  if (argv?.includes("--json") === true) {
    process.stdout.write(
      `${JSON.stringify({ error: { code: "misuse", message, advice, exitCode: 2 } }, null, 2)}\n`,
    );
  } else {
    process.stderr.write(`Error: ${printable(message)}\n  ${printable(advice)}\n`);
  }
  this.exit(2);
};

export default hook;
