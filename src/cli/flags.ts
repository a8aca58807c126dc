import { availableParallelism } from "node:os";
import { Flags } from "@oclif/core";
import { LapidaryError } from "../base/errors.js";
import { formatSize, parseSize } from "../base/sizes.js";

const DEFAULT_MEMORY = 1024 ** 3;

async function size(text: string, flag: string): Promise<number> {
  const bytes = parseSize(text);
  if (bytes === undefined || bytes === 0) {
    throw new LapidaryError(
      "bad-flag",
      `--${flag} ${text}: not a size; expected a number with a unit, such as 512MiB or 2G.`,
      {
        exitCode: 2,
      },
    );
  }
  return bytes;
}

export const threads = Flags.integer({
  description: "worker threads",
  min: 1,
  // llama.cpp takes no more.
  max: 512,
  default: async () => availableParallelism(),
  defaultHelp: async () => "one a core",
});

export const memory = Flags.custom<number>({
  description: "ceiling for working memory, whatever the size of the model",
  helpValue: "SIZE",
  parse: (text) => size(text, "memory"),
  default: DEFAULT_MEMORY,
  defaultHelp: async () => formatSize(DEFAULT_MEMORY),
})();

const splitMaxSize = Flags.custom<number>({
  description: "write several files of at most this much tensor data each, named as llama.cpp names them",
  helpValue: "SIZE",
  parse: (text) => size(text, "split-max-size"),
})();

/** Flags of every command that writes files from a model. */
export const outputFlags = {
  "keep-unused-kv": Flags.boolean({ description: "keep keys and values that shared layers never use" }),
  "split-max-size": splitMaxSize,
  "keep-split": Flags.boolean({
    description: "write as many files as the source has, with the same tensors",
  }),
  threads,
  memory,
  force: Flags.boolean({ description: "replace files that exist" }),
};

/** Flags of the commands that do nothing but write. */
export const convertFlags = {
  out: Flags.string({
    char: "o",
    description: "folder, or file ending in .gguf when there is one type",
    required: true,
  }),
  ...outputFlags,
  redo: Flags.string({
    description:
      "do the tensors again whose name a regular expression finds, and keep all others, in an output that is there or an unfinished one",
    helpValue: "REGEX",
  }),
  "dry-run": Flags.boolean({ description: "say exactly what would be written, and write nothing" }),
};

interface OutputValues {
  readonly "split-max-size": number | undefined;
  readonly threads: number;
  readonly memory: number;
  readonly force: boolean;
}

/** What the pipeline calls those values of `outputFlags` that no recipe has a say in. */
export function outputOptions(flags: OutputValues) {
  return {
    splitMaxBytes: flags["split-max-size"],
    threads: flags.threads,
    memory: flags.memory,
    force: flags.force,
  };
}
