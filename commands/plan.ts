import { Args, Flags } from "@oclif/core";
import { LapidaryError } from "../src/base/errors.js";
import { budgetFlags, budgetOf, statistics, types } from "../src/cli/allocation-flags.js";
import { LapidaryCommand } from "../src/cli/command.js";
import type { AllocationReport } from "../src/pipeline/allocate.js";

type Format = "gguf" | "onnx";

/** Formats separated by commas, each once. */
function formats(text: string): Format[] {
  const names = [...new Set(text.split(",").map((name) => name.trim()))];
  if (names.every((name): name is Format => name === "gguf" || name === "onnx")) return names;
  throw new LapidaryError("bad-flag", `--to ${text}: expected gguf, onnx, or both separated by a comma.`, {
    exitCode: 2,
  });
}

export default class Plan extends LapidaryCommand<AllocationReport> {
  static override summary = "Choose a type for every weight within a budget.";

  static override description = `Divides the bytes of a budget among the weights so that the estimated KL divergence is the least, from what measure has left in the folder of the statistics, and writes a plan: a line of YAML a weight, which convert, quantize and build take with --plan. The files are never larger than the budget, to the byte.

Mixes of llama-quantize that fit the budget are estimated too; one that loses less is kept instead, and named. So are 20 allocations by chance, to show what choosing is worth.`;

  static override examples = [
    "<%= config.bin %> <%= command.id %> gemma-4-E2B-it --statistics e2b-statistics --budget 1.6GB --output e2b-1.6GB.yaml",
    "<%= config.bin %> <%= command.id %> gemma-4-E2B-it --statistics e2b-statistics --bpw 3.5 --to gguf,onnx --output e2b-3.5.yaml",
    "<%= config.bin %> <%= command.id %> gemma-4-E2B-it --statistics e2b-statistics --max-kld 0.05 --types Q3_K,Q4_K,Q5_K,Q6_K,Q8_0 --output e2b.yaml",
  ];

  static override args = {
    checkpoint: Args.string({ description: "folder of the checkpoint", required: true }),
  };

  static override flags = {
    statistics,
    ...budgetFlags,
    types: types(),
    to: Flags.custom<Format[]>({
      description: "formats that the plan is for, separated by a comma; the budget is that of each",
      helpValue: "FORMAT[,FORMAT]",
      defaultHelp: async () => "gguf",
      parse: async (text) => formats(text),
    })(),
    output: Flags.string({ char: "o", description: "file of the plan", helpValue: "FILE", required: true }),
    force: Flags.boolean({ description: "replace a file that exists" }),
  };

  async run(): Promise<AllocationReport> {
    const { args, flags } = await this.parse(Plan);
    const { allocate } = await import("../src/pipeline/allocate.js");
    const { statistics, types, to, output, force } = flags;
    const report = await allocate(
      {
        source: args.checkpoint,
        statistics,
        budget: budgetOf(flags),
        types,
        formats: to ?? ["gguf"],
        output,
        force,
      },
      this.signal,
    );
    const { renderAllocation } = await import("../src/cli/allocation.js");
    this.log(await renderAllocation(report));
    return report;
  }
}
