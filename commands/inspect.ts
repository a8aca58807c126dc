import { Args, Flags } from "@oclif/core";
import { LapidaryCommand } from "../src/cli/command.js";
import type { InspectedCheckpoint, InspectedGguf } from "../src/pipeline/inspect.js";

export default class Inspect extends LapidaryCommand<InspectedCheckpoint | InspectedGguf> {
  static override summary = "Show what a checkpoint or a GGUF file holds.";

  static override description = `Reads headers only: metadata, tensors, types and sizes. All that is in a file is in the output of --json; of long lists (vocabularies) the first elements.`;

  static override examples = [
    "<%= config.bin %> <%= command.id %> gemma-4-E2B-it",
    "<%= config.bin %> <%= command.id %> out/gemma-4-E2B-it-Q4_0.gguf --tensors",
  ];

  static override args = {
    path: Args.string({
      description: "folder of a checkpoint, or a GGUF file (any part of a split one)",
      required: true,
    }),
  };

  static override flags = {
    tensors: Flags.boolean({ description: "list every tensor" }),
  };

  async run(): Promise<InspectedCheckpoint | InspectedGguf> {
    const { args, flags } = await this.parse(Inspect);
    const { inspect } = await import("../src/pipeline/inspect.js");
    const found = await inspect(args.path);
    if (!this.jsonEnabled()) {
      const { renderInspection } = await import("../src/cli/inspection.js");
      this.log(await renderInspection(found, flags.tensors));
    }
    return found;
  }
}
