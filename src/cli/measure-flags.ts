import { Flags } from "@oclif/core";
import { LapidaryError } from "../base/errors.js";
import type { Gates } from "../verify/gates.js";

export const text = Flags.string({
  description:
    "text to measure on: a file, a .jsonl of chats, or a folder of such; a set that comes with lapidary when left out",
});

export const textMode = Flags.option({
  description:
    "raw: as it stands; chat: through the model's chat template; auto: chat when the model's name marks it as instruction tuned",
  options: ["auto", "raw", "chat"] as const,
  default: "auto" as const,
})();

export const context = Flags.integer({
  description: "tokens of a window, of which the second half is scored",
  min: 8,
  max: 1 << 20,
  default: 512,
});

export const chunks = Flags.integer({
  description: "windows to run at most; the whole text when left out",
  min: 1,
});

/** Accuracy levels at which packages for ONNX Runtime are run. */
export const accuracyLevels = Flags.custom<number[]>({
  description:
    "ONNX: what products with codes are computed in, level by level: 0 single precision, 4 activations of 8 bits; 0 and the file's own when left out",
  helpValue: "LEVEL[,LEVEL]",
  parse: async (text) => {
    const levels = text.split(",").map((level) => Number(level.trim() === "" ? NaN : level));
    if (levels.every((level) => Number.isInteger(level) && level >= 0 && level <= 4)) return levels;
    throw new LapidaryError("bad-flag", `--accuracy-level ${text}: expected levels from 0 to 4.`, {
      exitCode: 2,
    });
  },
});

function number(flag: string, description: string) {
  return Flags.custom<number>({
    description,
    helpValue: "NUMBER",
    helpGroup: "GATE",
    parse: async (input) => {
      const value = Number(input);
      if (input.trim() === "" || !Number.isFinite(value)) {
        throw new LapidaryError("bad-flag", `--${flag} ${input}: expected a number.`, { exitCode: 2 });
      }
      return value;
    },
  })();
}

export const gateFlags = {
  "max-kl": number("max-kl", "largest mean KL divergence to the reference, in nats"),
  "max-ppl-ratio": number(
    "max-ppl-ratio",
    "largest perplexity as a multiple of the reference's, such as 1.02",
  ),
  "max-ppl": number("max-ppl", "largest perplexity"),
  "min-top1": number("min-top1", "smallest share of positions, 0 to 1, where both agree on the next token"),
};

/** The gates that were asked for, by the names that the verifier has for them. */
export function gatesOf(flags: Readonly<Record<keyof typeof gateFlags, number | undefined>>): Gates {
  const gates = {
    maxDivergence: flags["max-kl"],
    maxPerplexityRatio: flags["max-ppl-ratio"],
    maxPerplexity: flags["max-ppl"],
    minTopAgreement: flags["min-top1"],
  };
  return Object.fromEntries(Object.entries(gates).filter(([, limit]) => limit !== undefined));
}
