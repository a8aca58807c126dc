import type { Window } from "../../src/engines/types.js";
import { TextError } from "./errors.js";

/** Positions of a window that can be scored: a window of fewer tokens has none. */
export const minContext = 4;
/** Largest window; the longest context of the family is 262,144 tokens. */
export const maxContext = 262_144;

export interface PackOptions {
  /** Tokens of a window. */
  readonly context: number;
  /** Token that every window begins with; null for a model that wants none. */
  readonly bos: number | null;
  /** Windows to take at most; all when left out. */
  readonly chunks?: number;
  /**
   * Take `chunks` windows spread over the text instead of the first ones, so that a part of a mixed
   * set still sees all of it.
   */
  readonly spread?: boolean;
}

/** A window that knows where in the token stream it was cut. */
export interface PlacedWindow extends Window {
  /** Index in the stream (BOS counted) of the window's first token. */
  readonly start: number;
}

function checkContext(context: number): void {
  if (!Number.isSafeInteger(context) || context < minContext || context > maxContext) {
    throw new TextError(
      "window-size",
      `A window of ${context} tokens was asked for, expected a whole number from ${minContext} to ${maxContext}.`,
      { exitCode: 2 },
    );
  }
}

/**
 * Sees to it that a number of windows is one.
 *
 * @throws TextError `window-count`, exit code 2
 */
export function checkWindowCount(count: number): void {
  if (Number.isSafeInteger(count) && count >= 1) return;
  throw new TextError("window-count", `${count} windows were asked for, expected a whole number from 1.`, {
    exitCode: 2,
  });
}

/** Tokens of a text with its BOS. */
function withBosLength(tokens: Int32Array, bos: number | null): number {
  return tokens.length + (bos === null || tokens[0] === bos ? 0 : 1);
}

/** The stream as llama.cpp's tools tokenize it: exactly one BOS in front where the model wants one. */
function withBos(tokens: Int32Array, bos: number | null): Int32Array {
  if (bos === null || tokens[0] === bos) return tokens;
  const stream = new Int32Array(tokens.length + 1);
  stream[0] = bos;
  stream.set(tokens, 1);
  return stream;
}

/**
 * Windows that `packWindows` can cut from a text.
 *
 * @throws TextError `window-size`, exit code 2
 */
export function availableWindows(
  tokens: Int32Array,
  { context, bos }: Pick<PackOptions, "context" | "bos">,
): number {
  checkContext(context);
  return Math.floor(withBosLength(tokens, bos) / context);
}

function cut(
  stream: Int32Array,
  start: number,
  length: number,
  first: number,
  bos: number | null,
): PlacedWindow {
  const tokens = stream.slice(start, start + length);
  if (bos !== null) tokens[0] = bos;
  return { start, tokens, first };
}

/**
 * Cuts a tokenized text as llama-perplexity does, so that figures can be compared: ⌊N / context⌋ windows
 * that do not overlap, the first token of each replaced by BOS, positions context / 2 to context − 2
 * scored. (llama-perplexity refuses texts under two windows; one is enough here.)
 *
 * @param tokens the whole text, with or without a BOS in front
 * @throws TextError `window-size` and `text-short`, both exit code 2
 */
export function packWindows(tokens: Int32Array, options: PackOptions): PlacedWindow[] {
  const { context, bos, chunks = Infinity, spread = false } = options;
  checkContext(context);
  if (chunks !== Infinity) checkWindowCount(chunks);
  const stream = withBos(tokens, bos);
  const available = Math.floor(stream.length / context);
  if (available === 0) {
    throw new TextError(
      "text-short",
      `The text has ${stream.length} tokens, one window of ${context} needs ${context}.`,
      { exitCode: 2, advice: "Give a longer text or a smaller window." },
    );
  }
  const count = Math.min(chunks, available);
  const first = Math.floor(context / 2);
  return Array.from({ length: count }, (_, index) => {
    const place = spread ? Math.floor((index * available) / count) : index;
    return cut(stream, place * context, context, first, bos);
  });
}

export interface LongOptions {
  readonly slidingWindow: number;
  readonly bos: number | null;
  /** Windows to take at most; 4 when left out. */
  readonly count?: number;
  /** Tokens of a window; four times the sliding window when left out. */
  readonly length?: number;
}

/**
 * Windows several times longer than the sliding window, spread over the text without overlapping. Every
 * position from the sliding window on is scored: from there the sliding layers see less than the whole
 * window, so a file whose mask is wrong (window size, order of layers) differs there and nowhere before.
 *
 * @returns null when the text is too short for one
 * @throws TextError `window-size` when the sliding window is not between 1 and the window's length
 */
export function longWindows(tokens: Int32Array, options: LongOptions): PlacedWindow[] | null {
  const { slidingWindow, bos, count = 4, length = 4 * slidingWindow } = options;
  checkContext(length);
  if (!Number.isSafeInteger(slidingWindow) || slidingWindow < 1 || slidingWindow > length - 2) {
    throw new TextError(
      "window-size",
      `A sliding window of ${slidingWindow} tokens leaves nothing to score in windows of ${length}.`,
      { exitCode: 2 },
    );
  }
  const stream = withBos(tokens, bos);
  const fitting = Math.min(count, Math.floor(stream.length / length));
  if (fitting === 0) return null;
  const step = Math.floor(stream.length / fitting);
  return Array.from({ length: fitting }, (_, index) => cut(stream, index * step, length, slidingWindow, bos));
}
