import { Args } from "@oclif/core";
import { statistics, types } from "../src/cli/allocation-flags.js";
import { LapidaryCommand } from "../src/cli/command.js";
import { memory, threads } from "../src/cli/flags.js";
import { text } from "../src/cli/measure-flags.js";
import type { SensitivityReport } from "../src/pipeline/sensitivity.js";

export default class Measure extends LapidaryCommand<SensitivityReport> {
  static override summary = "Estimate what rounding each weight to each type costs.";

  static override description = `Rounds every weight of a checkpoint to every type in memory and estimates the KL divergence that it causes, from the gradients and the inputs that a calibration has gathered. Of large matrices some rows are rounded. What gradients say nothing about, such as the embedding tables, is measured on a little text.

The numbers are kept in sensitivity.json in the folder of the statistics: what is there is not done again, and plans for any budget are made from it in seconds.`;

  static override examples = [
    "<%= config.bin %> <%= command.id %> gemma-4-E2B-it --statistics e2b-statistics",
    "<%= config.bin %> <%= command.id %> gemma-4-E2B-it --statistics e2b-statistics --types Q3_K,Q4_K,Q6_K",
  ];

  static override args = {
    checkpoint: Args.string({ description: "folder of the checkpoint", required: true }),
  };

  static override flags = { statistics, types: types(), text, threads, memory };

  async run(): Promise<SensitivityReport> {
    const { args, flags } = await this.parse(Measure);
    const { measureTypes } = await import("../src/pipeline/sensitivity.js");
    const report = await measureTypes(
      { source: args.checkpoint, ...flags },
      await this.reporter(),
      this.signal,
    );
    const { renderSensitivity } = await import("../src/cli/allocation.js");
    this.log(await renderSensitivity(report));
    return report;
  }
}
