import { TextError } from "./errors.js";
import type { TextPiece } from "./modes.js";
import { type SharedRun, type ShingleIndex, shingleLength } from "./shingles.js";
import { pieceStart, type Tokenize, type TokenizedText } from "./tokenized.js";

/** Share of the evaluation text that may stand in the calibration text: stock phrases of licences and templates. */
export const maxLeak = 0.01;

interface PlacedToken {
  readonly piece: TextPiece;
  readonly file: string;
  /** Tokens of the piece in front of it. */
  readonly before: number;
}

/**
 * Where a run begins: what stands before the piece that its first shingle ends in is a blank line between two
 * documents, which any two have in common.
 */
function placeOf(text: TokenizedText, run: number): PlacedToken | null {
  const index = text.ends.findIndex((end) => run + shingleLength <= end);
  const piece = text.pieces[index];
  if (piece === undefined) return null;
  return { piece, file: text.files[index] ?? "", before: Math.max(0, run - pieceStart(text, index)) };
}

/** A place for a message; of a chat, the line that the chat stands on. */
async function describePlace(place: PlacedToken | null, tokenize: Tokenize): Promise<string> {
  if (place === null) return "";
  const { piece, file, before } = place;
  const whole = piece.special || piece.file.endsWith(".jsonl");
  return `${file}, line ${piece.line + (whole ? 0 : await linesBefore(piece, before, tokenize))}`;
}

/**
 * Line ends in front of a token of a piece. Halves the lines in question again and again and tokenizes the
 * first half, so that no text is tokenized twice. A cut may part what was one token, so among very short lines
 * the answer can be a line off.
 */
async function linesBefore(piece: TextPiece, token: number, tokenize: Tokenize): Promise<number> {
  const lines = piece.text.split(/(?<=\n)/);
  let first = 0;
  let end = lines.length;
  let left = token;
  while (end - first > 1) {
    const middle = first + Math.floor((end - first) / 2);
    const { length } = await tokenize([{ ...piece, text: lines.slice(first, middle).join("") }]);
    if (left < length) {
      end = middle;
    } else {
      left -= length;
      first = middle;
    }
  }
  return first;
}

/** The worst run of a source, with the source. */
export interface PlacedRun {
  readonly run: SharedRun;
  readonly source: TokenizedText;
}

/**
 * Refuses calibration texts that hold too much of the evaluation text: figures on a text that a model was
 * calibrated on are too good.
 *
 * @param worst run to point at; null when there is none
 * @throws TextError `text-reused`, exit code 2
 */
export async function refuseLeak(
  index: ShingleIndex,
  evaluation: TokenizedText,
  worst: PlacedRun | null,
  tokenize: Tokenize,
): Promise<void> {
  if (worst === null || index.share <= maxLeak) return;
  const { run, source } = worst;
  const here = await describePlace(placeOf(source, run.at), tokenize);
  const there = await describePlace(placeOf(evaluation, run.of), tokenize);
  throw new TextError(
    "text-reused",
    `${(100 * index.share).toFixed(1)} % of the evaluation text stands in the calibration text, expected at most ${100 * maxLeak} %: ${here} has ${run.length} tokens of ${there}.`,
    {
      exitCode: 2,
      advice:
        "Calibrate on other text, or measure on other text: a model does too well on text that it was fitted to.",
    },
  );
}
