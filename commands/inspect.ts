import { Args, Flags } from "@oclif/core";
import { LapidaryError } from "../src/base/errors.js";
import { LapidaryCommand } from "../src/cli/command.js";
import type { CheckReport } from "../src/pipeline/check.js";
import type { DiffReport } from "../src/pipeline/diff.js";
import type { Inspected } from "../src/pipeline/inspect.js";

type Inspection = Inspected | DiffReport | CheckReport;

function misuse(message: string, advice: string): LapidaryError {
  return new LapidaryError("misuse", message, { exitCode: 2, advice });
}

export default class Inspect extends LapidaryCommand<Inspection> {
  static override summary =
    "Show what a checkpoint, a GGUF file or ONNX graphs hold, compare two models, or check one.";

  static override description = `Reads headers only: metadata, tensors, types and sizes. All that is in a file is in the output of --json; of long lists (vocabularies) the first elements.

Of an ONNX file, or of all in a folder (its subfolder onnx, and the folders of onnxruntime-genai included), it reads the graphs: operators, inputs, outputs, how many bits the weights have, and what in them ONNX Runtime refuses, computes wrong or slowly. A folder with safetensors is shown as a checkpoint.

With --diff two models are compared tensor by tensor, by their names in GGUF: type and bytes in each, and the relative error of the second, sqrt(sum (a-b)^2 / sum a^2) over the decoded values. Either may be a GGUF file or the folder of a checkpoint. Differences are a result, not a failure: the exit code is 0.

With --check all of a model is read: every value has to be finite, and when the folder of a GGUF file holds a manifest.json that lists the file, size and SHA-256 have to be those of the manifest. ONNX graphs must have no errors. The exit code is 1 when they are not.`;

  static override examples = [
    "<%= config.bin %> <%= command.id %> gemma-4-E2B-it",
    "<%= config.bin %> <%= command.id %> out/gemma-4-E2B-it-Q4_0.gguf --tensors",
    "<%= config.bin %> <%= command.id %> --diff gemma-4-E2B-it out/gemma-4-E2B-it-Q4_0.gguf",
    "<%= config.bin %> <%= command.id %> gemma-4-E2B-it-ONNX/onnx/decoder_model_merged_q4.onnx",
    "<%= config.bin %> <%= command.id %> --check out/gemma-4-E2B-it-Q4_0.gguf",
  ];

  static override args = {
    path: Args.string({
      description:
        "folder of a checkpoint, a GGUF file (any part of a split one), an ONNX file, or a folder of such",
      required: true,
    }),
    other: Args.string({ description: "with --diff: the model that is compared with the first one" }),
  };

  static override flags = {
    tensors: Flags.boolean({ description: "list every tensor" }),
    diff: Flags.boolean({ description: "compare two models, the first of which is the reference" }),
    check: Flags.boolean({
      description: "read everything: finite values, sound graphs, and the hash in manifest.json",
    }),
  };

  async run(): Promise<Inspection> {
    const { args, flags } = await this.parse(Inspect);
    const modes = (["diff", "check", "tensors"] as const).filter((name) => flags[name]);
    if (modes.length > 1) {
      throw misuse(
        `--${modes[0]} and --${modes[1]} cannot be used together.`,
        "Give one of them; --diff lists every tensor anyway.",
      );
    }
    if (flags.diff) return this.#diff(args.path, args.other);
    if (args.other !== undefined) {
      throw misuse(
        `${args.other}: ${flags.check ? "--check reads" : "inspect shows"} one model, and ${args.path} was named already.`,
        flags.check ? "Check one after another." : "Give --diff to compare the two.",
      );
    }
    return flags.check ? this.#check(args.path) : this.#show(args.path, flags.tensors);
  }

  async #show(path: string, tensors: boolean): Promise<Inspected> {
    const { inspect } = await import("../src/pipeline/inspect.js");
    const found = await inspect(path);
    if (!this.jsonEnabled()) {
      const { renderInspection } = await import("../src/cli/inspection.js");
      this.log(await renderInspection(found, tensors));
    }
    return found;
  }

  async #diff(path: string, other: string | undefined): Promise<DiffReport> {
    if (other === undefined) {
      throw misuse(
        `--diff compares two models, and only ${path} was named.`,
        "Name the reference first, then the model to compare with it.",
      );
    }
    const { diff } = await import("../src/pipeline/diff.js");
    const report = await diff(path, other, await this.reporter(), this.signal);
    if (!this.jsonEnabled()) {
      const { renderDiff } = await import("../src/cli/comparison.js");
      this.log(await renderDiff(report));
    }
    return report;
  }

  async #check(path: string): Promise<CheckReport> {
    const { check } = await import("../src/pipeline/check.js");
    const report = await check(path, await this.reporter(), this.signal);
    if (!this.jsonEnabled()) {
      const { renderCheck } = await import("../src/cli/soundness.js");
      this.log(await renderCheck(report));
    }
    if (report.error !== null) this.fail(report.error);
    return report;
  }
}
