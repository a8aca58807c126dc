import { Args, Flags } from "@oclif/core";
import { LapidaryCommand } from "../../src/cli/command.js";
import type { MergeReport } from "../../src/pipeline/imatrix.js";

export default class ImatrixMerge extends LapidaryCommand<MergeReport> {
  static override summary = "Add up importance matrices of one model.";

  static override description = `Writes one importance matrix, in llama.cpp's GGUF format, as if one run had seen the text of all files: sums and counts of tokens add up, as with llama-imatrix --in-file. FILE=WEIGHT counts every token of a file that many times.

Files may be GGUF or the .dat of older versions, whose means count for as many tokens as their windows have. Given a single file, it turns a .dat into GGUF. A tensor that some files lack is added up over the others, and named.

All files have to be of one model: names and shapes are checked. When the windows of the files differ in length, --context says which length the merged file shall name.`;

  static override examples = [
    "<%= config.bin %> <%= command.id %> prose.gguf code.gguf --out imatrix.gguf",
    "<%= config.bin %> <%= command.id %> prose.gguf code.gguf=2.5 old.dat=0.5 --out imatrix.gguf",
    "<%= config.bin %> <%= command.id %> old.dat --out imatrix.gguf",
  ];

  static override strict = false;

  static override args = {
    files: Args.string({
      description: "importance matrices, each as FILE or FILE=WEIGHT",
      required: true,
    }),
  };

  static override flags = {
    out: Flags.string({
      char: "o",
      aliases: ["output"],
      description: "file to write",
      required: true,
    }),
    context: Flags.integer({
      description: "tokens of a window; by default what the files say, or 512 if none does",
      min: 1,
      max: 1 << 20,
    }),
    force: Flags.boolean({ description: "replace a file that exists" }),
  };

  async run(): Promise<MergeReport> {
    const { argv, flags } = await this.parse(ImatrixMerge);
    const { mergeImatrices, parseWeighted } = await import("../../src/pipeline/imatrix.js");
    const report = await mergeImatrices(
      {
        files: (argv as string[]).map((text) => parseWeighted(text)),
        out: flags.out,
        chunkTokens: flags.context,
        force: flags.force,
      },
      this.signal,
    );
    if (!this.jsonEnabled()) {
      const { renderMerge } = await import("../../src/cli/importance.js");
      this.log(await renderMerge(report));
    }
    return report;
  }
}
