import { type Document, loadDocuments } from "./documents.js";
import { TextError } from "./errors.js";
import { calibrationSet } from "./evaluation.js";
import { hashDocuments } from "./hash.js";
import { type PlacedRun, refuseLeak } from "./leak.js";
import { rawText, type RenderChat, textPieces } from "./modes.js";
import { type NearDuplicate, PassageIndex } from "./near-duplicates.js";
import { countScripts } from "./scripts.js";
import { shareWindows } from "./share.js";
import { ShingleIndex } from "./shingles.js";
import { type CalibrationSource, maxSources, sourceName } from "./sources.js";
import { fileName, maxTokens, type Tokenize, type TokenizedText, tokenizeText } from "./tokenized.js";
import { availableWindows, checkWindowCount, packWindows, type PlacedWindow } from "./windows.js";

/** Windows when no number is given, 100 thousand tokens: llama.cpp found no consistent gain from more (tools/perplexity/README.md). */
const defaultWindows = 200;
const defaultContext = 512;
/** Below this number of windows, 8 thousand tokens, chance has too much of a say in the statistics. */
const fewWindows = 16;
/** Passages named one by one; beyond, only their number is. */
const maxNamed = 10;

export interface CalibrationOptions {
  /** Tokens of a window; 512 when left out. */
  readonly context?: number | undefined;
  /** Windows at most; 200 when left out. */
  readonly windows?: number | undefined;
  readonly mode: "raw" | "chat";
  /** Token that every window begins with; null for a model that wants none. */
  readonly bos: number | null;
  /** Text of that token, which chat templates write in front; `<bos>` when left out. */
  readonly bosText?: string | undefined;
  /** Needed for `chat` only. */
  readonly render: RenderChat | null;
  readonly tokenize: Tokenize;
  /** File or folder that will be measured on, of which nothing may be calibrated on; no check when left out. */
  readonly evaluation?: string | undefined;
}

/** What one source gave. */
export interface SourceCount {
  /** Path as it was given, or `default`. */
  readonly name: string;
  readonly kind: "text" | "chats" | "mixed";
  readonly weight: number;
  readonly documents: number;
  /** Tokens of the whole source, without BOS. */
  readonly tokens: number;
  /** Windows taken from it. */
  readonly windows: number;
}

export interface CalibrationText {
  /**
   * Windows to run, source after source; of each, positions from half the window on are the ones to score.
   * `start` counts through the streams of all sources, each with its BOS.
   */
  readonly windows: PlacedWindow[];
  /** Tokens of a window. */
  readonly context: number;
  readonly sources: SourceCount[];
  /** Characters of all texts by script, as `countScripts` has them. */
  readonly scripts: Record<string, number>;
  /** SHA-256 over the documents of all sources, as `hashDocuments` has it. */
  readonly hash: string;
  readonly mode: "raw" | "chat";
  /** What the user should know, a sentence each. */
  readonly warnings: string[];
}

interface LoadedSource {
  readonly source: CalibrationSource;
  readonly documents: readonly Document[];
  readonly text: TokenizedText;
  /** Windows that can be cut from it. */
  readonly available: number;
}

function checkSources(sources: readonly CalibrationSource[]): void {
  if (sources.length >= 1 && sources.length <= maxSources) return;
  throw new TextError(
    "source-count",
    `${sources.length} calibration texts were given, expected 1 to ${maxSources}.`,
    { exitCode: 2, advice: "Put the files into folders: a folder is one text." },
  );
}

function kindOf(documents: readonly Document[]): SourceCount["kind"] {
  const chats = documents.filter(({ kind }) => kind === "chat").length;
  if (chats === 0) return "text";
  return chats === documents.length ? "chats" : "mixed";
}

async function tokenizeDocuments(
  documents: readonly Document[],
  source: string,
  { mode, render, bosText, tokenize }: CalibrationOptions,
  limit = maxTokens,
): Promise<TokenizedText> {
  const bos = bosText === undefined ? {} : { bos: bosText };
  return tokenizeText(textPieces(documents, mode, { render, ...bos }), source, tokenize, limit);
}

async function loadSources(
  sources: readonly CalibrationSource[],
  options: CalibrationOptions,
  context: number,
): Promise<LoadedSource[]> {
  // All texts are read before any is tokenized: a mistyped path comes out at once.
  const read: { source: CalibrationSource; documents: Document[] }[] = [];
  for (const source of sources)
    read.push({ source, documents: await loadDocuments(source.path ?? calibrationSet()) });
  const loaded: LoadedSource[] = [];
  let left = maxTokens;
  for (const { source, documents } of read) {
    const text = await tokenizeDocuments(documents, sourceName(source), options, left);
    left -= text.tokens.length;
    const available = availableWindows(text.tokens, { context, bos: options.bos });
    loaded.push({ source, documents, text, available });
  }
  return loaded;
}

/** Passages as `file, line 3 (evaluation.txt, line 5)`, the first of them. */
function list(duplicates: readonly NearDuplicate[]): string {
  const named = duplicates
    .slice(0, maxNamed)
    .map(({ place, of }) => `${place.file}, line ${place.line} (${of.file}, line ${of.line})`);
  const more = duplicates.length - named.length;
  return named.join("; ") + (more > 0 ? `; and ${more} more` : "");
}

function passages(count: number): string {
  return count === 1 ? "1 passage is" : `${count} passages are`;
}

/** Refuses texts that hold much of the evaluation text, and names passages that are nearly in it. */
async function checkAgainst(
  evaluation: string,
  loaded: readonly LoadedSource[],
  options: CalibrationOptions,
): Promise<string[]> {
  const documents = await loadDocuments(evaluation);
  const text = await tokenizeDocuments(documents, evaluation, options);
  const shingles = new ShingleIndex(text.tokens);
  let worst: PlacedRun | null = null;
  for (const { text: source } of loaded) {
    const run = shingles.find(source.tokens);
    if (run !== null && (worst === null || run.length > worst.run.length)) worst = { run, source };
  }
  await refuseLeak(shingles, text, worst, options.tokenize);

  const index = new PassageIndex();
  for (const document of documents) index.add(document, fileName(evaluation, document));
  const near = eachDocument(loaded, (document, file) => index.compare(document, file));
  return near.length === 0
    ? []
    : [`${passages(near.length)} nearly the same as one of the evaluation text: ${list(near)}.`];
}

function eachDocument(
  loaded: readonly LoadedSource[],
  visit: (document: Document, file: string) => NearDuplicate[],
): NearDuplicate[] {
  return loaded.flatMap(({ source, documents }) =>
    documents.flatMap((document) => visit(document, fileName(sourceName(source), document))),
  );
}

function repetitionWarnings(loaded: readonly LoadedSource[]): string[] {
  const index = new PassageIndex();
  const repeated = eachDocument(loaded, (document, file) => index.add(document, file));
  return repeated.length === 0
    ? []
    : [`${passages(repeated.length)} nearly the same as an earlier one: ${list(repeated)}.`];
}

/** Says where the windows are not what the weights and the number ask for. */
function countWarnings(
  loaded: readonly LoadedSource[],
  shares: readonly number[],
  wanted: number | undefined,
): string[] {
  const total = shares.reduce((all, share) => all + share, 0);
  const sum = loaded.reduce((all, { source }) => all + source.weight, 0);
  const asked = wanted ?? defaultWindows;
  const warnings: string[] = [];
  if (wanted !== undefined && total < wanted)
    warnings.push(`${wanted} windows were asked for, the text has ${total}.`);
  for (const [index, { source, available }] of loaded.entries()) {
    const share = shares[index] ?? 0;
    const due = (asked * source.weight) / sum;
    const name = sourceName(source);
    if (loaded.length > 1 && available < Math.floor(due)) {
      warnings.push(
        `${name} has ${available} windows of the ${Math.round(due)} that its weight asks for; the others make up for it as far as they can.`,
      );
    } else if (share === 0) {
      warnings.push(
        `${name} gives no window: ${available === 0 ? "it is shorter than one" : "its weight is too small"}.`,
      );
    }
  }
  if (total < fewWindows) {
    warnings.push(
      `There are only ${total} windows to calibrate on; with fewer than ${fewWindows} the result depends on chance.`,
    );
  }
  return warnings;
}

function cutWindows(
  loaded: readonly LoadedSource[],
  shares: readonly number[],
  context: number,
  bos: number | null,
): PlacedWindow[] {
  const windows: PlacedWindow[] = [];
  let before = 0;
  for (const [index, { text }] of loaded.entries()) {
    const chunks = shares[index] ?? 0;
    const cut = chunks === 0 ? [] : packWindows(text.tokens, { context, bos, chunks, spread: true });
    for (const window of cut) windows.push({ ...window, start: before + window.start });
    before += text.tokens.length + (bos === null || text.tokens[0] === bos ? 0 : 1);
  }
  return windows;
}

/**
 * Reads the texts to calibrate on and cuts them into windows: document after document, each window with its
 * BOS as llama-imatrix cuts them, so that statistics over both can be compared. When a source has more than
 * its share of the windows, they are taken from all over it.
 *
 * @throws TextError `source-count`, `window-size`, `window-count`, `text-short`, `text-reused` and `text-size`
 *   (exit code 2), and what `loadDocuments` and `textPieces` throw
 */
export async function calibrationText(
  sources: readonly CalibrationSource[],
  options: CalibrationOptions,
): Promise<CalibrationText> {
  const { context = defaultContext, windows: wanted, bos, mode, evaluation } = options;
  checkSources(sources);
  if (wanted !== undefined) checkWindowCount(wanted);
  const loaded = await loadSources(sources, options, context);
  if (loaded.every(({ available }) => available === 0)) {
    const tokens = loaded.reduce((all, { text }) => all + text.tokens.length, 0);
    throw new TextError(
      "text-short",
      `${loaded.map(({ source }) => sourceName(source)).join(", ")}: the calibration text has ${tokens} tokens, one window needs ${context} from one source.`,
      { exitCode: 2, advice: "Give a longer text or a smaller window." },
    );
  }
  const leaks = evaluation === undefined ? [] : await checkAgainst(evaluation, loaded, options);
  const shares = shareWindows(
    wanted ?? defaultWindows,
    loaded.map(({ source }) => source.weight),
    loaded.map(({ available }) => available),
  );
  const documents = loaded.flatMap((one) => [...one.documents]);
  return {
    windows: cutWindows(loaded, shares, context, bos),
    context,
    sources: loaded.map(({ source, documents, text }, index) => ({
      name: sourceName(source),
      kind: kindOf(documents),
      weight: source.weight,
      documents: documents.length,
      tokens: text.tokens.length,
      windows: shares[index] ?? 0,
    })),
    scripts: countScripts(documents.map((document) => rawText(document))),
    hash: hashDocuments(documents),
    mode,
    warnings: [...countWarnings(loaded, shares, wanted), ...leaks, ...repetitionWarnings(loaded)],
  };
}
