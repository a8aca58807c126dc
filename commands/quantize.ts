import { Args } from "@oclif/core";
import { LapidaryCommand } from "../src/cli/command.js";
import { convertFlags, outputOptions } from "../src/cli/flags.js";
import { typeFlags, typeOptions } from "../src/cli/type-flags.js";
import type { ConvertedArtifact } from "../src/pipeline/convert.js";

export default class Quantize extends LapidaryCommand<{ artifacts: readonly ConvertedArtifact[] }> {
  static override summary = "Round a checkpoint, or an unrounded GGUF, to a mix of block types.";

  static override description = `Takes the folder of a checkpoint, or a GGUF file in BF16, F16 or F32 (any part of a split one), and writes GGUF. Which tensor gets which type is llama-quantize's choice where neither a flag nor a recipe names one.

A run that was stopped is continued by the same command; finished tensors are checked, and damaged ones done again. With --redo, single tensors of a complete output are done again too.`;

  static override examples = [
    "<%= config.bin %> <%= command.id %> gemma-4-E2B-it --type Q4_0 --out out",
    "<%= config.bin %> <%= command.id %> gemma-4-E2B-it --recipe e2b-q4.yaml --out out --dry-run",
    "<%= config.bin %> <%= command.id %> gemma-4-E2B-it-BF16.gguf --type Q8_0,Q4_0 --out out --memory 512MiB",
    '<%= config.bin %> <%= command.id %> gemma-4-E2B-it --type Q4_0 --out out --redo "ffn_down"',
  ];

  static override args = {
    source: Args.string({
      description: "folder of a checkpoint, or a GGUF file in BF16, F16 or F32",
      required: true,
    }),
  };

  static override flags = {
    ...typeFlags(),
    ...convertFlags,
  };

  async run(): Promise<{ artifacts: readonly ConvertedArtifact[] }> {
    const { args, flags } = await this.parse(Quantize);
    const { convert } = await import("../src/pipeline/convert.js");
    const { renderArtifacts } = await import("../src/cli/artifacts.js");
    const artifacts = await convert(
      {
        source: args.source,
        out: flags.out,
        matchConverter: false,
        ...(await typeOptions(flags)),
        ...outputOptions(flags),
        redo: flags.redo,
        dryRun: flags["dry-run"],
      },
      await this.reporter(),
      this.signal,
    );
    this.log(await renderArtifacts(artifacts));
    return { artifacts };
  }
}
