import { Args, Flags } from "@oclif/core";
import { LapidaryCommand } from "../src/cli/command.js";
import { outputFlags, outputOptions } from "../src/cli/flags.js";
import { typeFlags, typeOptions } from "../src/cli/type-flags.js";
import { chunks, context, gateFlags, gatesOf, text, textMode } from "../src/cli/measure-flags.js";
import type { BuildReport } from "../src/pipeline/build.js";

export default class Build extends LapidaryCommand<BuildReport> {
  static override summary = "Make files from a checkpoint, measure them, and write a manifest.";

  static override description = `The whole chain: every type is written, run in llama.cpp against a reference made from the same source, and timed. The result is a table, and manifest.json beside the files: hashes of inputs and outputs, versions, the type of every tensor, all measurements.

A build that was broken off goes on where it stopped when it is started again. Files that the manifest vouches for are kept; any other file in the way is refused without --force.`;

  static override examples = [
    "<%= config.bin %> <%= command.id %> gemma-4-E2B-it --type Q8_0,Q4_0 --out out",
    "<%= config.bin %> <%= command.id %> gemma-4-E2B-it --type Q4_0 --out out --text wiki.test.raw --chunks 60 --max-kl 0.1",
  ];

  static override args = {
    source: Args.string({
      description: "folder of a checkpoint, or a GGUF file in BF16, F16 or F32",
      required: true,
    }),
  };

  static override flags = {
    out: Flags.string({ char: "o", description: "folder for the files and manifest.json", required: true }),
    text,
    "text-mode": textMode,
    context,
    chunks,
    prompt: Flags.integer({
      char: "p",
      description: "tokens of the timed prompt",
      min: 1,
      max: 1 << 20,
      default: 512,
    }),
    generation: Flags.integer({
      char: "n",
      description: "tokens of the timed generation",
      min: 1,
      max: 1 << 20,
      default: 128,
    }),
    repetitions: Flags.integer({
      char: "r",
      description: "repetitions of each timing",
      min: 1,
      max: 1000,
      default: 5,
    }),
    ...gateFlags,
    ...typeFlags(),
    ...outputFlags,
  };

  async run(): Promise<BuildReport> {
    const { args, flags } = await this.parse(Build);
    const { build } = await import("../src/pipeline/build.js");
    const report = await build(
      {
        source: args.source,
        out: flags.out,
        text: flags.text,
        mode: flags["text-mode"],
        context: flags.context,
        chunks: flags.chunks,
        promptTokens: flags.prompt,
        generationTokens: flags.generation,
        repetitions: flags.repetitions,
        gates: gatesOf(flags),
        ...(await typeOptions(flags)),
        ...outputOptions(flags),
      },
      await this.reporter(),
      this.signal,
    );
    if (!this.jsonEnabled()) {
      const { renderManifest } = await import("../src/cli/manifest.js");
      this.log(await renderManifest(report.manifest, report.built, flags.out));
    }
    this.gate(report.missed.map(({ file, message }) => `${file}: ${message}`));
    return report;
  }
}
