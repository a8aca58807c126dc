import { Args, Flags } from "@oclif/core";
import { LapidaryCommand } from "../src/cli/command.js";
import { outputFlags, outputOptions } from "../src/cli/flags.js";
import { typeFlags, typeOptions } from "../src/cli/type-flags.js";
import { chunks, context, gateFlags, gatesOf, text, textMode } from "../src/cli/measure-flags.js";
import { onnxFlags, onnxMethod, onnxOptions } from "../src/cli/onnx-flags.js";
import { LapidaryError } from "../src/base/errors.js";
import type { BuildReport } from "../src/pipeline/build.js";

function misuse(message: string, advice: string): LapidaryError {
  return new LapidaryError("bad-flag", message, { exitCode: 2, advice });
}

function formats(text: string): ("gguf" | "onnx")[] {
  const names = text.split(",").map((name) => name.trim());
  if (names.every((name) => name === "gguf" || name === "onnx")) return names;
  throw misuse(`--to ${text}: expected gguf, onnx, or gguf,onnx.`, "Other formats are not known.");
}

/** Which formats a build writes, and that there is something to write in each. */
function whatIsAsked(flags: {
  readonly to: readonly ("gguf" | "onnx")[] | undefined;
  readonly type: readonly string[] | undefined;
  readonly recipe: string | undefined;
  readonly plan: string | undefined;
  readonly dtype: readonly string[] | undefined;
  readonly layout: string | undefined;
}): { readonly gguf: boolean; readonly onnx: boolean } {
  const ways = (["type", "recipe", "plan"] as const).filter((way) => flags[way] !== undefined);
  if (ways.length > 1) {
    const advice =
      ways[0] === "recipe" ? "A recipe can name the plan itself." : `A ${ways[1]} names the type itself.`;
    throw misuse(`--${ways[0]} and --${ways[1]} exclude each other.`, advice);
  }
  const planned = flags.plan !== undefined;
  if (planned && flags.dtype !== undefined) {
    throw misuse("--plan and --dtype exclude each other.", "A plan names the dtype itself.");
  }
  const gguf = flags.to?.includes("gguf") ?? ways.length > 0;
  const onnx = flags.to?.includes("onnx") ?? flags.dtype !== undefined;
  if (!planned && gguf !== ways.length > 0) {
    throw gguf
      ? misuse("--to gguf needs --type, --recipe or --plan.", "Name mixes, such as --type Q4_K_M.")
      : misuse(
          "--type and --recipe are for GGUF, which --to leaves out.",
          "Leave them out, or add gguf to --to.",
        );
  }
  if (!planned && onnx !== (flags.dtype !== undefined)) {
    throw onnx
      ? misuse("--to onnx needs --dtype or --plan.", "Name dtypes, such as --dtype q4,q4f16.")
      : misuse("--dtype is for ONNX, which --to leaves out.", "Leave it out, or add onnx to --to.");
  }
  if (!gguf && !onnx) {
    throw misuse(
      "--type, --recipe, --plan or --dtype is required.",
      "Name what to write, such as --type Q4_K_M or --dtype q4.",
    );
  }
  if (flags.layout === "genai") {
    throw misuse(
      "--layout genai: build measures packages in the transformers.js layout.",
      "Use convert for that layout.",
    );
  }
  return { gguf, onnx };
}

export default class Build extends LapidaryCommand<BuildReport> {
  static override summary = "Make files from a checkpoint, measure them, and write a manifest.";

  static override description = `The whole chain: every type (GGUF, --type) and dtype (ONNX, --dtype) is written, run in llama.cpp or ONNX Runtime against a reference made from the same source, and timed. The result is a table, and manifest.json beside the files: hashes of inputs and outputs, versions, the type of every tensor, all measurements.

A build that was broken off goes on where it stopped when it is started again. Files that the manifest vouches for are kept; any other file in the way is refused without --force.`;

  static override examples = [
    "<%= config.bin %> <%= command.id %> gemma-4-E2B-it --type Q8_0,Q4_0 --out out",
    "<%= config.bin %> <%= command.id %> gemma-4-E2B-it --to gguf,onnx --type Q4_K_M --dtype q4 --imatrix imatrix.gguf --out out",
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
    to: Flags.custom<("gguf" | "onnx")[]>({
      description:
        "formats to write: gguf, onnx, or both separated by a comma; what --type and --dtype ask for when left out",
      helpValue: "FORMAT[,FORMAT]",
      parse: async (text) => formats(text),
    })(),
    ...gateFlags,
    ...typeFlags([]),
    ...onnxFlags,
    ...outputFlags,
  };

  async run(): Promise<BuildReport> {
    const { args, flags } = await this.parse(Build);
    const asked = whatIsAsked(flags);
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
        ...(await typeOptions({
          ...flags,
          plan: asked.gguf ? flags.plan : undefined,
          method: flags.method === "nearest" ? "ggml" : flags.method,
        })),
        onnx: asked.onnx
          ? {
              ...(await onnxOptions(flags)),
              layout: "transformers.js",
              tensorTypes: asked.gguf ? [] : (flags["tensor-type"] ?? []),
              method: onnxMethod(flags.method === "ggml" ? "nearest" : flags.method),
              balance: flags.balance,
              imatrix: flags.imatrix,
            }
          : null,
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
