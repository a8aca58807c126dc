import { EngineError } from "../errors.js";
import type { Session } from "./session.js";

/** Inputs that are fed from what is known of the tokens. */
export const TOKEN_INPUTS = ["input_ids", "attention_mask", "position_ids", "num_logits_to_keep"] as const;

const PAST = /^past_key_values\.(\d+\.(?:key|value))$/;

/** One half of a layer's cache: what a pass gives is what the next one takes. */
export interface CacheSlot {
  readonly input: string;
  readonly output: string;
  readonly type: "float32" | "float16";
  /** [1, key-value heads, 0, head size]. */
  readonly emptyDims: readonly number[];
}

/** What generation has to feed to a decoder in the layout of transformers.js, and take from it. */
export interface DecoderLayout {
  readonly caches: readonly CacheSlot[];
  /** Outputs of the embedding graph that the decoder takes, such as `inputs_embeds`. */
  readonly embedded: readonly string[];
  readonly logits: string;
}

function cacheOf(decoder: Session, input: string, half: string): CacheSlot {
  const output = `present.${half}`;
  const found = decoder.input(input);
  const given = decoder.output(output);
  if (found === undefined || given === undefined) {
    throw new EngineError("engine-layout", `${decoder.file} takes ${input} but does not give ${output}.`);
  }
  const { type, shape } = found;
  if ((type !== "float32" && type !== "float16") || given.type !== type || shape.length !== 4) {
    throw new EngineError(
      "engine-layout",
      `${decoder.file}: ${input} is of type ${type} with ${shape.length} dimensions and ${output} of type ${given.type}, expected 4 dimensions of float32 or float16 in both.`,
    );
  }
  // As transformers.js has it: a size without a number is the batch by its name, and otherwise that of the past.
  const emptyDims = shape.map((size) => (size === "batch_size" ? 1 : typeof size === "number" ? size : 0));
  if (!emptyDims.includes(0)) {
    throw new EngineError(
      "engine-layout",
      `${decoder.file}: ${input} has the fixed shape [${shape.join(", ")}], expected a name for the length of the past.`,
    );
  }
  return { input, output, type, emptyDims };
}

/**
 * Reads from a decoder's inputs and outputs how it is to be run.
 *
 * @param embed the graph that makes embeddings of ids, where there is one
 * @throws EngineError that names the input or output which is not of the layout
 */
export function decoderLayout(decoder: Session, embed: Session | undefined): DecoderLayout {
  const caches: CacheSlot[] = [];
  const embedded: string[] = [];
  for (const { name } of decoder.inputs) {
    const half = PAST.exec(name)?.[1];
    if (half !== undefined) caches.push(cacheOf(decoder, name, half));
    else if (embed?.output(name) !== undefined) embedded.push(name);
    else if (!(TOKEN_INPUTS as readonly string[]).includes(name)) {
      throw new EngineError(
        "engine-layout",
        `${decoder.file} takes ${name}, which ${embed === undefined ? "no graph gives" : `${embed.file} does not give`}.`,
      );
    }
  }
  if (embed !== undefined && embedded.length === 0) {
    throw new EngineError("engine-layout", `${decoder.file} takes nothing of what ${embed.file} gives.`);
  }
  const logits = decoder.output("logits");
  if (logits?.type !== "float32") {
    throw new EngineError(
      "engine-layout",
      `${decoder.file} gives ${logits === undefined ? "no logits" : `logits of type ${logits.type}`}, expected an output logits of float32.`,
    );
  }
  return { caches, embedded, logits: logits.name };
}
