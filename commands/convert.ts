import { Args, Flags } from "@oclif/core";
import { LapidaryCommand } from "../src/cli/command.js";
import { convertFlags, outputOptions } from "../src/cli/flags.js";
import { typeFlags, typeOptions } from "../src/cli/type-flags.js";
import type { ConvertedArtifact } from "../src/pipeline/convert.js";

export default class Convert extends LapidaryCommand<{ artifacts: readonly ConvertedArtifact[] }> {
  static override summary = "Write a checkpoint in another format.";

  static override description = `Reads the folder of a Gemma 4 checkpoint (config.json, tokenizer.json, safetensors) and writes a GGUF file that llama.cpp loads. A type names one of llama-quantize's mixes, or a recipe names types tensor by tensor; several types make several files. Every tensor has to be known, present and of the right shape.

Keys and values of layers that share those of an earlier one are left out: nothing reads them.

A run that was stopped is continued by the same command; finished tensors are checked, and damaged ones done again. With --redo, single tensors of a complete output are done again too.`;

  static override examples = [
    "<%= config.bin %> <%= command.id %> gemma-4-E2B-it --to gguf --type bf16 --out gemma-4-E2B-it-BF16.gguf",
    "<%= config.bin %> <%= command.id %> gemma-4-E2B-it --to gguf --type Q8_0,Q4_0 --out out",
    "<%= config.bin %> <%= command.id %> gemma-4-31B-it --to gguf --type Q4_0 --out out --dry-run",
  ];

  static override args = {
    checkpoint: Args.string({ description: "folder of the checkpoint", required: true }),
  };

  static override flags = {
    to: Flags.option({ description: "format to write", options: ["gguf"] as const, required: true })(),
    "match-converter": Flags.boolean({
      description: "write exactly what llama.cpp's own converter writes (F32, F16, BF16, Q8_0)",
      exclusive: ["recipe"],
    }),
    ...typeFlags,
    ...convertFlags,
  };

  async run(): Promise<{ artifacts: readonly ConvertedArtifact[] }> {
    const { args, flags } = await this.parse(Convert);
    const { convertCheckpoint } = await import("../src/pipeline/convert.js");
    const { renderArtifacts } = await import("../src/cli/artifacts.js");
    const artifacts = await convertCheckpoint(
      {
        source: args.checkpoint,
        out: flags.out,
        matchConverter: flags["match-converter"],
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
