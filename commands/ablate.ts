import { Args, Flags } from "@oclif/core";
import { LapidaryError } from "../src/base/errors.js";
import { LapidaryCommand } from "../src/cli/command.js";
import { memory, threads } from "../src/cli/flags.js";
import { context, text, textMode } from "../src/cli/measure-flags.js";
import type { AblationReport } from "../src/pipeline/ablation.js";

const GROUPS = ["weight", "role", "layer"] as const;

function groups(text: string): (typeof GROUPS)[number][] {
  const names = [...new Set(text.split(",").map((name) => name.trim()))];
  const known = names.flatMap((name) => GROUPS.filter((group) => group === name));
  if (known.length === names.length) return known;
  throw new LapidaryError("bad-flag", `--by ${text}: expected ${GROUPS.join(", ")}, separated by commas.`, {
    exitCode: 2,
  });
}

export default class Ablate extends LapidaryCommand<AblationReport> {
  static override summary = "Measure which weights suffer most from rounding.";

  static override description = `Rounds one weight at a time to a type, all others staying as they are, runs text through the model in ONNX Runtime and measures the KL divergence to the unrounded one; then all weights of a role together, and all of a layer. The result is a ranking: a weight that stands out deserves a larger type, or is the cause of a collapse.

The model is walked through once, a layer at a time, and all variants go along. That takes about as long as running the text half as often as there are variants.`;

  static override examples = [
    "<%= config.bin %> <%= command.id %> gemma-4-E4B --type Q4_K",
    "<%= config.bin %> <%= command.id %> gemma-4-E4B --type Q4_0 --by role,layer --text wiki.test.raw --windows 8",
  ];

  static override args = {
    checkpoint: Args.string({ description: "folder of the checkpoint", required: true }),
  };

  static override flags = {
    type: Flags.string({
      description: "block type such as Q4_K, or bits and block of ONNX such as q4z-32",
      required: true,
      helpValue: "TYPE",
    }),
    by: Flags.custom<(typeof GROUPS)[number][]>({
      description: "what is rounded at a time: weight, role, layer, separated by commas",
      helpValue: "GROUP[,GROUP]",
      defaultHelp: async () => GROUPS.join(","),
      parse: async (text) => groups(text),
    })(),
    text,
    "text-mode": textMode,
    context,
    windows: Flags.integer({ description: "windows of text to run", min: 1, max: 10_000, default: 4 }),
    threads,
    memory,
  };

  async run(): Promise<AblationReport> {
    const { args, flags } = await this.parse(Ablate);
    const { ablateCheckpoint } = await import("../src/pipeline/ablation.js");
    const { type, by = GROUPS, text, context, threads, memory } = flags;
    const report = await ablateCheckpoint(
      {
        source: args.checkpoint,
        type,
        by,
        text,
        context,
        threads,
        memory,
        mode: flags["text-mode"],
        chunks: flags.windows,
      },
      await this.reporter(),
      this.signal,
    );
    const { renderAblation } = await import("../src/cli/allocation.js");
    this.log(await renderAblation(report));
    return report;
  }
}
