import { TextError } from "./errors.js";
import type { TextPiece } from "./modes.js";
import type { SharedRun, ShingleIndex } from "./shingles.js";
import { pieceStart, type Tokenize, type TokenizedText } from "./tokenized.js";

/** Share of the evaluation text that may stand in the calibration text: stock phrases of licences and templates. */
export const maxLeak = 0.01;

/** Line of a file on which a token stands; within a chat, the line of the chat. */
async function lineOf(text: TokenizedText, token: number, tokenize: Tokenize): Promise<number> {
  const index = text.ends.findIndex((end) => token < end);
  const piece = text.pieces[index];
  if (piece === undefined) return 1;
  if (piece.special || piece.file.endsWith(".jsonl")) return piece.line;
  return piece.line + (await linesBefore(piece, token - pieceStart(text, index), tokenize));
}

/**
 * Line ends in front of a token of a piece. Halves the lines in question again and again and tokenizes the
 * first half, so that no text is tokenized twice; a token or two that a cut makes more or less move the
 * answer by a line at most.
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

function fileOf(text: TokenizedText, token: number): string {
  const index = text.ends.findIndex((end) => token < end);
  return text.files[index] ?? "";
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
  const line = await lineOf(source, run.at, tokenize);
  const evaluationLine = await lineOf(evaluation, run.of, tokenize);
  throw new TextError(
    "text-reused",
    `${(100 * index.share).toFixed(1)} % of the evaluation text stands in the calibration text, expected at most ${100 * maxLeak} %: ${fileOf(source, run.at)}, line ${line} has ${run.length} tokens of ${fileOf(evaluation, run.of)}, line ${evaluationLine}.`,
    {
      exitCode: 2,
      advice:
        "Calibrate on other text, or measure on other text: a model does too well on text that it was fitted to.",
    },
  );
}
