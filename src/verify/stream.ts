import type { TextPiece } from "../../calibration/text/modes.js";
import type { Engine, ModelInfo } from "../engines/types.js";

/** Tokens that came from one file: up to, not including, index `end` of the stream. */
export interface Span {
  readonly file: string;
  readonly end: number;
}

export interface TokenStream {
  /** All of the text, with one BOS in front where the model wants one. */
  readonly tokens: Int32Array;
  /** In the order of the stream, one a file. */
  readonly spans: readonly Span[];
}

/** Tokenizes the pieces one after the other into one stream. */
export async function tokenizePieces(
  engine: Engine,
  { handle, model }: { readonly handle: number; readonly model: ModelInfo },
  pieces: readonly TextPiece[],
): Promise<TokenStream> {
  const parts: Int32Array[] = model.addsBos ? [Int32Array.of(model.bos)] : [];
  let length = parts.length;
  const spans: Span[] = [];
  for (const { file, text, special } of pieces) {
    const part = await engine.tokenize(handle, text, { special, bos: false });
    parts.push(part);
    length += part.length;
    if (spans.at(-1)?.file === file) spans.pop();
    spans.push({ file, end: length });
  }
  const tokens = new Int32Array(length);
  let at = 0;
  for (const part of parts) {
    tokens.set(part, at);
    at += part.length;
  }
  return { tokens, spans };
}
