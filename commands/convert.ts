import { Args, Flags } from "@oclif/core";
import { LapidaryCommand } from "../src/cli/command.js";
import { convertFlags, outputOptions } from "../src/cli/flags.js";
import { checkFormat, onnxFlags, onnxMethod, onnxOptions } from "../src/cli/onnx-flags.js";
import { typeFlags, typeOptions } from "../src/cli/type-flags.js";
import type { ConvertedArtifact } from "../src/pipeline/convert.js";
import type { ExportReport } from "../src/pipeline/export.js";

/** Flags that say something about GGUF only. */
const GGUF_FLAGS = [
  "type",
  "recipe",
  "output-type",
  "embedding-type",
  "ple-type",
  "pure",
  "fallback",
  "match-converter",
  "keep-unused-kv",
  "keep-split",
  "keep-lattice",
  "split-max-size",
];

type Converted = { artifacts: readonly ConvertedArtifact[] } | ExportReport;

export default class Convert extends LapidaryCommand<Converted> {
  static override summary = "Write a checkpoint in another format.";

  static override description = `Reads the folder of a Gemma 4 checkpoint (config.json, tokenizer.json, safetensors). Every tensor has to be known, present and of the right shape.

To gguf: a file that llama.cpp loads. A type names one of llama-quantize's mixes, or a recipe names types tensor by tensor; several types make several files. Keys and values of layers that share those of an earlier one are left out: nothing reads them.

To onnx: a folder that transformers.js and ONNX Runtime load, with one graph for the embeddings and one for the decoder in every dtype (docs/onnx.md has the bits of each). With --layout genai a folder for onnxruntime-genai. Types for single tensors are fp32, fp16, q8, q4 or q2, with z for zero points and the block size behind, as in q4z-64.

A run that was stopped is continued by the same command; finished tensors are checked, and damaged ones done again. With --redo, single tensors of a complete output are done again too.`;

  static override examples = [
    "<%= config.bin %> <%= command.id %> gemma-4-E2B-it --to gguf --type bf16 --out gemma-4-E2B-it-BF16.gguf",
    "<%= config.bin %> <%= command.id %> gemma-4-E2B-it --to gguf --type Q8_0,Q4_0 --out out",
    "<%= config.bin %> <%= command.id %> gemma-4-31B-it --to gguf --type Q4_0 --out out --dry-run",
    "<%= config.bin %> <%= command.id %> gemma-4-E2B-it --to onnx --dtype q4,q4f16 --out gemma-4-E2B-it-ONNX",
    "<%= config.bin %> <%= command.id %> gemma-4-E2B-it --to onnx --dtype decoder_model_merged=q2,embed_tokens=q4 --out web",
  ];

  static override args = {
    checkpoint: Args.string({ description: "folder of the checkpoint", required: true }),
  };

  static override flags = {
    to: Flags.option({
      description: "format to write",
      options: ["gguf", "onnx"] as const,
      required: true,
    })(),
    "match-converter": Flags.boolean({
      description: "write exactly what llama.cpp's own converter writes (F32, F16, BF16, Q8_0)",
      exclusive: ["recipe", "plan"],
    }),
    ...typeFlags(["type", "recipe", "dtype", "plan"]),
    ...onnxFlags,
    ...convertFlags,
  };

  async run(): Promise<Converted> {
    const { args, flags } = await this.parse(Convert);
    if (flags.to === "onnx") {
      checkFormat("onnx", flags, GGUF_FLAGS);
      const { exportOnnx } = await import("../src/pipeline/export.js");
      const report = await exportOnnx(
        {
          source: args.checkpoint,
          out: flags.out,
          ...(await onnxOptions(flags)),
          tensorTypes: flags["tensor-type"] ?? [],
          method: onnxMethod(flags.method),
          balance: flags.balance,
          imatrix: flags.imatrix,
          threads: flags.threads,
          memory: flags.memory,
          dryRun: flags["dry-run"],
          force: flags.force,
          redo: flags.redo,
        },
        await this.reporter(),
        this.signal,
      );
      const { renderExport } = await import("../src/cli/exported.js");
      this.log(await renderExport(report));
      return report;
    }
    checkFormat("gguf", flags, Object.keys(onnxFlags));
    const { convertCheckpoint } = await import("../src/pipeline/convert.js");
    const { renderArtifacts } = await import("../src/cli/artifacts.js");
    const artifacts = await convertCheckpoint(
      {
        source: args.checkpoint,
        out: flags.out,
        matchConverter: flags["match-converter"],
        ...(await typeOptions(flags)),
        ...outputOptions(flags),
        redo: flags.redo,
        dryRun: flags["dry-run"],
      },
      await this.reporter(),
      this.signal,
    );
    this.log(await renderArtifacts(artifacts));
    return { artifacts };
  }
}
