import type { Hook } from "@oclif/core";
import { nearest } from "../base/nearest.js";
import { printable } from "./printable.js";

/**
 * Says that a command does not exist, and which one may be meant. In place of oclif's own plugin, which
 * asks back, exits with 127 and knows no `--json`.
 */
const hook: Hook<"command_not_found"> = async function ({ id: words, argv, config }) {
  // oclif takes all words up to the first flag for a command and its topics.
  const [first = words, ...rest] = words.split(":");
  const isTopic = config.topics.some(({ name }) => name === first);
  const id = isTopic ? [first, ...rest.slice(0, 1)].join(" ") : first;
  const near = nearest(
    id,
    config.commandIDs.map((id) => id.replaceAll(":", " ")),
  );
  const message = `${id} is not a command of lapidary.`;
  const advice =
    near === undefined ? "See lapidary --help." : `Did you mean lapidary ${near}? See lapidary --help.`;
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
