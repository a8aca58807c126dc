import { Flags } from "@oclif/core";
import { LapidaryError } from "../base/errors.js";
import type { TypeOptions } from "../pipeline/convert.js";

const TYPE = "TYPE";

/** `ffn_down=Q6_K`: everything behind the last equals sign is the type. */
function tensorType(text: string): { pattern: string; type: string } {
  const at = text.lastIndexOf("=");
  const pattern = text.slice(0, Math.max(at, 0));
  const type = text.slice(at + 1);
  if (at < 1 || type === "") {
    throw new LapidaryError(
      "bad-flag",
      `--tensor-type ${text}: expected a regular expression and a type, such as ffn_down=Q6_K.`,
      { exitCode: 2 },
    );
  }
  return { pattern, type };
}

/** Flags of every command that chooses types: what stands in front of a mix's rules, and the importance. */
export const typeFlags = {
  imatrix: Flags.string({
    description: "importance matrix of llama-imatrix (GGUF or .dat), by which rounding errors are weighted",
    helpValue: "FILE",
  }),
  "tensor-type": Flags.custom<{ pattern: string; type: string }>({
    description:
      "type for the tensors whose name a regular expression finds; may be given several times, the first that finds a tensor wins",
    helpValue: "REGEX=TYPE",
    multiple: true,
    parse: async (text) => tensorType(text),
  })(),
  "output-type": Flags.string({
    description: "type of the output matrix, or of the embeddings of a model without one",
    helpValue: TYPE,
  }),
  "embedding-type": Flags.string({ description: "type of the embedding tables", helpValue: TYPE }),
  "ple-type": Flags.string({
    description: "type of the table of per-layer embeddings (E2B, E4B)",
    helpValue: TYPE,
  }),
  pure: Flags.boolean({ description: "give every tensor the mix's own type, without its rules" }),
  fallback: Flags.option({
    description:
      "what replaces a type whose blocks do not divide a row: llama-quantize's choice, or the fewest bits not below the wish",
    options: ["stock", "near"] as const,
    default: "stock" as const,
  })(),
};

interface TypeValues {
  readonly imatrix: string | undefined;
  readonly "tensor-type": readonly { readonly pattern: string; readonly type: string }[] | undefined;
  readonly "output-type": string | undefined;
  readonly "embedding-type": string | undefined;
  readonly "ple-type": string | undefined;
  readonly pure: boolean;
  readonly fallback: "stock" | "near";
}

/** What the pipeline calls the values of `typeFlags`. */
export function typeOptions(flags: TypeValues): TypeOptions {
  return {
    imatrix: flags.imatrix,
    typeNames: {
      tensorTypes: flags["tensor-type"] ?? [],
      output: flags["output-type"],
      embedding: flags["embedding-type"],
      perLayerEmbedding: flags["ple-type"],
      pure: flags.pure,
      fallback: flags.fallback,
    },
  };
}
