import { Args } from "@oclif/core";
import { LapidaryCommand } from "../../src/cli/command.js";
import type { ImatrixComparison, InspectedImatrix } from "../../src/pipeline/imatrix.js";

export default class ImatrixInspect extends LapidaryCommand<InspectedImatrix | ImatrixComparison> {
  static override summary = "Show what an importance matrix holds, or how much two of them differ.";

  static override description = `Reads an importance matrix of llama-imatrix, in its GGUF format or the .dat of older versions, and shows of every tensor what llama-imatrix --show-statistics does: the sum, range, mean and deviation of the mean squares of its columns; the share that is zero, and that is active (above 0.00001); their entropy, as a share of the most that it can be; the share more than one deviation above the mean (high); and the cosine similarity to the same tensor one layer earlier, where that has the same width.

Experts that saw no token, or less than a tenth of what the experts of their tensor saw on average, are starved: what the matrix says of them is chance, and more text helps.

With a second importance matrix of the same model the two are compared: the correlation of their columns tensor by tensor, and for experts the one that is least alike. Differences are a result, not a failure: the exit code is 0.`;

  static override examples = [
    "<%= config.bin %> <%= command.id %> imatrix.gguf",
    "<%= config.bin %> <%= command.id %> imatrix.gguf imatrix-of-other-text.gguf",
    "<%= config.bin %> <%= command.id %> imatrix.dat --json",
  ];

  static override args = {
    file: Args.string({ description: "importance matrix, GGUF or .dat", required: true }),
    other: Args.string({ description: "importance matrix that is compared with the first one" }),
  };

  async run(): Promise<InspectedImatrix | ImatrixComparison> {
    const { args } = await this.parse(ImatrixInspect);
    const { compareImatrices, inspectImatrix } = await import("../../src/pipeline/imatrix.js");
    const found =
      args.other === undefined
        ? await inspectImatrix(args.file)
        : await compareImatrices(args.file, args.other);
    if (!this.jsonEnabled()) {
      const { renderImatrix, renderImatrixComparison } = await import("../../src/cli/importance.js");
      this.log(found.kind === "imatrix" ? await renderImatrix(found) : await renderImatrixComparison(found));
    }
    return found;
  }
}
