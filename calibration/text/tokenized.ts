import { basename, join } from "node:path";
import type { Document } from "./documents.js";
import { TextError } from "./errors.js";
import type { TextPiece } from "./modes.js";

/** Turns pieces of text into their tokens, one after the other, no BOS added. */
export type Tokenize = (pieces: readonly TextPiece[]) => Promise<Int32Array>;

/** Tokens of all texts of a calibration: 64 MiB of English. Two hundred windows of 512 are a hundred thousand. */
export const maxTokens = 2 ** 24;

/** A text as tokens that know where they come from. */
export interface TokenizedText {
  readonly tokens: Int32Array;
  readonly pieces: readonly TextPiece[];
  /** Name of each piece's file, for messages. */
  readonly files: readonly string[];
  /** For each piece, the index in `tokens` after its last token. */
  readonly ends: readonly number[];
}

/** Index in the tokens of a piece's first one. */
export function pieceStart({ ends }: TokenizedText, index: number): number {
  return ends[index - 1] ?? 0;
}

/** A document's file as messages name it: documents know the base name only. */
export function fileName(source: string, { file }: Pick<Document, "file">): string {
  return basename(source) === file ? source : join(source, file);
}

/**
 * Tokenizes the pieces of a text.
 *
 * @param source path or name of the text
 * @param limit tokens at most
 * @throws TextError `text-size`, exit code 2
 */
export async function tokenizeText(
  pieces: readonly TextPiece[],
  source: string,
  tokenize: Tokenize,
  limit: number,
): Promise<TokenizedText> {
  const parts: Int32Array[] = [];
  const ends: number[] = [];
  let length = 0;
  for (const piece of pieces) {
    const part = await tokenize([piece]);
    length += part.length;
    if (length > limit) {
      throw new TextError(
        "text-size",
        `${source}: the text makes more than ${maxTokens} tokens, together with the texts before it.`,
        { exitCode: 2, advice: "A few hundred kilobytes say as much; cut the text down." },
      );
    }
    parts.push(part);
    ends.push(length);
  }
  const tokens = new Int32Array(length);
  for (const [index, part] of parts.entries()) tokens.set(part, (ends[index] ?? 0) - part.length);
  return { tokens, pieces, files: pieces.map((piece) => fileName(source, piece)), ends };
}
