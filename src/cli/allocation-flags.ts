import { Flags } from "@oclif/core";
import { LapidaryError } from "../base/errors.js";
import { parseSize } from "../base/sizes.js";

export const statistics = Flags.string({
  description: "folder that a calibration of the checkpoint has left",
  helpValue: "DIR",
  required: true,
});

/** Names of types in one flag. */
export const types = Flags.custom<string[]>({
  description:
    "types to choose among: block types such as Q4_K for GGUF, bits and block such as q4z-32 for ONNX; some of each that lose little for their size when left out",
  helpValue: "TYPE[,TYPE…]",
  parse: async (text) => text.split(",").map((name) => name.trim()),
});

/** What a plan has to keep to; exactly one of them. */
export const budgetFlags = {
  budget: Flags.custom<number>({
    description: "bytes that the files of each format may take, such as 1.6GB",
    helpValue: "SIZE",
    exactlyOne: ["budget", "bpw", "max-kld"],
    parse: async (text) => {
      const bytes = parseSize(text);
      if (bytes !== undefined && bytes > 0) return bytes;
      throw new LapidaryError("bad-flag", `--budget ${text}: expected a size such as 1.6GB or 900MiB.`, {
        exitCode: 2,
      });
    },
  })(),
  bpw: positive("bpw", "bits of the files for each weight", "BITS"),
  "max-kld": positive(
    "max-kld",
    "largest estimated KL divergence, in nats a token; the files are as small as it allows",
    "NATS",
  ),
};

function positive(flag: string, description: string, helpValue: string) {
  return Flags.custom<number>({
    description,
    helpValue,
    exactlyOne: ["budget", "bpw", "max-kld"],
    parse: async (text) => {
      const value = Number(text);
      if (text.trim() !== "" && Number.isFinite(value) && value > 0) return value;
      throw new LapidaryError("bad-flag", `--${flag} ${text}: expected a number above 0.`, { exitCode: 2 });
    },
  })();
}

/** What the pipeline calls the value of `budgetFlags`. */
export function budgetOf(flags: {
  readonly budget: number | undefined;
  readonly bpw: number | undefined;
  readonly "max-kld": number | undefined;
}): { readonly bytes: number } | { readonly bitsPerWeight: number } | { readonly kld: number } {
  if (flags.budget !== undefined) return { bytes: flags.budget };
  if (flags.bpw !== undefined) return { bitsPerWeight: flags.bpw };
  return { kld: flags["max-kld"]! };
}
