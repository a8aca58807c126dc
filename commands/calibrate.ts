import { Args, Flags } from "@oclif/core";
import { LapidaryCommand } from "../src/cli/command.js";
import { memory, threads } from "../src/cli/flags.js";
import { context, textMode } from "../src/cli/measure-flags.js";
import type { CalibrateReport } from "../src/pipeline/calibrate.js";

export default class Calibrate extends LapidaryCommand<CalibrateReport> {
  static override summary = "Run text through a checkpoint and keep what its matrices read.";

  static override description = `Runs windows of text through the checkpoint, layer by layer: the weights stay in their shards, and no more than a layer of them is in memory. What every matrix reads is kept in a folder, as sums of squares for each column and, if asked for, as second moments, which --method gptq rounds by. With gradients the way back through the model is taken too: their second moments say how much an error at each output moves the model's predictions, in nats of KL divergence.

The folder also gets imatrix.gguf, an importance matrix in the format of llama-imatrix, which quantize, convert and llama-quantize take.

A run that was stopped is continued by the same command, behind the last layer that was done.`;

  static override examples = [
    "<%= config.bin %> <%= command.id %> gemma-4-E2B-it --out stats",
    "<%= config.bin %> <%= command.id %> gemma-4-E2B-it --calibration chats.jsonl=3 --calibration code/ --out stats --depth gradients",
    "<%= config.bin %> <%= command.id %> gemma-4-E2B --calibration default --calibration book.txt --windows 400 --out stats",
  ];

  static override args = {
    checkpoint: Args.string({ description: "folder of the checkpoint", required: true }),
  };

  static override flags = {
    out: Flags.string({ char: "o", description: "folder for the statistics", required: true }),
    calibration: Flags.string({
      description:
        "text to calibrate on: a file, a .jsonl of chats or a folder of such, with the share that it gets behind it; default for the set that comes with lapidary, which is taken when the flag is left out",
      helpValue: "PATH[=WEIGHT]",
      multiple: true,
    }),
    depth: Flags.option({
      description: "what is kept: importance of columns, second moments too, or those of gradients besides",
      options: ["importance", "moments", "gradients"] as const,
      default: "moments" as const,
    })(),
    context,
    windows: Flags.integer({ description: "windows to run at most; 200 when left out", min: 1 }),
    "text-mode": textMode,
    evaluation: Flags.string({
      description:
        "text that will be measured on, of which nothing may be calibrated on; the set that comes with lapidary when left out",
    }),
    threads,
    memory,
  };

  async run(): Promise<CalibrateReport> {
    const { args, flags } = await this.parse(Calibrate);
    const { calibrate } = await import("../src/pipeline/calibrate.js");
    const report = await calibrate(
      {
        source: args.checkpoint,
        sources: flags.calibration ?? ["default"],
        out: flags.out,
        context: flags.context,
        windows: flags.windows,
        mode: flags["text-mode"],
        evaluation: flags.evaluation,
        depth: flags.depth,
        threads: flags.threads,
        memory: flags.memory,
      },
      await this.reporter(),
      this.signal,
    );
    const { renderCalibration } = await import("../src/cli/calibration.js");
    this.log(await renderCalibration(report));
    return report;
  }
}
