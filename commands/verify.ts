import { Args, Flags } from "@oclif/core";
import { LapidaryCommand } from "../src/cli/command.js";
import { memory, threads } from "../src/cli/flags.js";
import {
  accuracyLevels,
  chunks,
  context,
  gateFlags,
  gatesOf,
  text,
  textMode,
} from "../src/cli/measure-flags.js";
import type { VerifyReport } from "../src/pipeline/verify.js";

export default class Verify extends LapidaryCommand<VerifyReport> {
  static override summary = "Measure what a file lost, in the runtime that it is for.";

  static override description = `Runs GGUF files in llama.cpp, and ONNX packages in ONNX Runtime, over the same windows of text as a reference: perplexity as llama-perplexity defines it, KL divergence to the reference, how often both agree on the next token, and how the probability of the true token moved. Windows longer than the sliding window are measured apart: a wrong attention mask shows only there.

The reference is a GGUF file, an ONNX package, or the folder of the checkpoint, from which an F32 file (BF16 above 2 GB of weights) is made for the time of the run. Without a reference only perplexity is measured.

A package is measured with exact products (accuracy level 0) and with those that it is published for.

With a gate (--max-kl and the like) the command exits with code 3 when a file misses it.`;

  static override examples = [
    "<%= config.bin %> <%= command.id %> out/gemma-4-E2B-it-Q4_0.gguf --reference gemma-4-E2B-it",
    "<%= config.bin %> <%= command.id %> out/*.gguf --reference BF16.gguf --text wiki.test.raw --chunks 60 --max-kl 0.05",
    "<%= config.bin %> <%= command.id %> gemma-4-E2B-it-ONNX --reference gemma-4-E2B-it --accuracy-level 0,4",
  ];

  static override strict = false;

  static override args = {
    files: Args.string({
      description: "GGUF files (of a split one the first part), and folders or decoders of ONNX packages",
      required: true,
    }),
  };

  static override flags = {
    reference: Flags.string({
      description: "GGUF file, ONNX package, or folder of a checkpoint, to compare with",
    }),
    text,
    "text-mode": textMode,
    context,
    chunks,
    "accuracy-level": accuracyLevels(),
    ...gateFlags,
    threads,
    memory,
  };

  async run(): Promise<VerifyReport> {
    const { argv, flags } = await this.parse(Verify);
    const { verify } = await import("../src/pipeline/verify.js");
    const report = await verify(
      {
        files: argv as string[],
        reference: flags.reference ?? null,
        text: flags.text,
        mode: flags["text-mode"],
        context: flags.context,
        chunks: flags.chunks,
        gates: gatesOf(flags),
        accuracyLevels: flags["accuracy-level"],
        threads: flags.threads,
        memory: flags.memory,
      },
      await this.reporter(),
      this.signal,
    );
    const { renderVerification } = await import("../src/cli/verification.js");
    this.log(await renderVerification(report));
    this.gate(report.files.flatMap(({ file, missed }) => missed.map(({ message }) => `${file}: ${message}`)));
    return report;
  }
}
