import { Args, Flags } from "@oclif/core";
import { formatSize } from "../src/base/sizes.js";
import { LapidaryCommand } from "../src/cli/command.js";
import { threads } from "../src/cli/flags.js";
import { accuracyLevels } from "../src/cli/measure-flags.js";
import type { BenchReport } from "../src/pipeline/bench.js";

export default class Bench extends LapidaryCommand<BenchReport> {
  static override summary = "Measure how fast files run on this machine, in the runtime that they are for.";

  static override description = `Measures GGUF files in llama.cpp and ONNX packages in ONNX Runtime as llama-bench does: after a warm-up, repeated passes over a prompt and repeated generation of single tokens, without sampling; mean and deviation in tokens a second. What would take longer than a minute in ONNX Runtime is done less often, and with fewer tokens. Each file runs in a process of its own, whose largest resident memory is reported. The load of the machine before and after is noted: figures of a busy machine say little.`;

  static override examples = [
    "<%= config.bin %> <%= command.id %> out/gemma-4-E2B-it-Q4_0.gguf",
    "<%= config.bin %> <%= command.id %> out/*.gguf --prompt 512 --generation 128 --repetitions 5 --json",
  ];

  static override strict = false;

  static override args = {
    files: Args.string({
      description: "GGUF files (of a split one the first part), and folders or decoders of ONNX packages",
      required: true,
    }),
  };

  static override flags = {
    prompt: Flags.integer({
      char: "p",
      description: "tokens of the prompt",
      min: 1,
      max: 1 << 20,
      default: 512,
    }),
    generation: Flags.integer({
      char: "n",
      description: "tokens to generate",
      min: 1,
      max: 1 << 20,
      default: 128,
    }),
    repetitions: Flags.integer({
      char: "r",
      description: "repetitions of each",
      min: 1,
      max: 1000,
      default: 5,
    }),
    "accuracy-level": accuracyLevels(),
    threads,
  };

  async run(): Promise<BenchReport> {
    const { argv, flags } = await this.parse(Bench);
    const { bench } = await import("../src/pipeline/bench.js");
    const report = await bench(
      {
        files: argv as string[],
        promptTokens: flags.prompt,
        generationTokens: flags.generation,
        repetitions: flags.repetitions,
        threads: flags.threads,
        accuracyLevels: flags["accuracy-level"],
      },
      await this.reporter(),
      this.signal,
    );
    if (!this.jsonEnabled()) {
      const { renderTable } = await import("../src/cli/table.js");
      const rows = report.files.flatMap(({ file, accuracyLevel, speeds, threads, load, peakMemory }) =>
        speeds.map(({ kind, tokens, mean, deviation }) => [
          accuracyLevel === null ? file : `${file} (level ${accuracyLevel})`,
          `${kind} ${tokens}`,
          `${mean.toFixed(2)} ± ${deviation.toFixed(2)}`,
          String(threads),
          formatSize(peakMemory),
          load.map((value) => value.toFixed(2)).join(" → "),
        ]),
      );
      this.log(
        await renderTable(["file", "test", ">tokens/s", ">threads", ">peak memory", ">machine load"], rows),
      );
    }
    return report;
  }
}
