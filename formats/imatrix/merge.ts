import { ImatrixError } from "./errors.js";
import type { ImatrixContents, StoredEntry, SummedEntry, SummedMatrix } from "./types.js";

/** llama-imatrix's own, for files that do not say how long their windows are. */
const DEFAULT_CHUNK_TOKENS = 512;

const ONE_MODEL = "Merge importance matrices of one model.";

function mismatch(message: string, advice: string): ImatrixError {
  return new ImatrixError("imatrix-mismatch", message, { exitCode: 2, advice });
}

/** A tensor that not all files have. */
export interface PartialTensor {
  readonly name: string;
  /** Paths of the files that lack it. */
  readonly missing: readonly string[];
}

export interface MergedImatrix {
  readonly contents: ImatrixContents & { readonly entries: readonly SummedEntry[] };
  readonly partial: readonly PartialTensor[];
}

interface Total {
  readonly name: string;
  readonly sums: Float64Array;
  /** One for all matrices until a file tells them apart. */
  counts: Float64Array;
  /** The files that have the tensor. */
  readonly paths: string[];
}

/** What one file counts for. */
interface Share {
  readonly path: string;
  /** What its sums are multiplied with. */
  readonly factor: number;
  readonly entries: SummedMatrix["entries"];
}

/** Values without calls are means of nobody knows how much text. */
function checkCalls({ path, entries }: SummedMatrix): void {
  for (const { name, counts } of entries.values()) {
    if (counts[0] !== 0) continue;
    throw new ImatrixError("imatrix-calls", `${path}: ${name} comes from 0 windows, expected at least 1.`, {
      advice: "What it counts beside other text is not known: make the file again.",
    });
  }
}

/**
 * Counts as whole numbers, and sums that still have the same mean: a share of a file can leave fractions, which
 * readers round away.
 */
function settle({ name, sums, counts }: Total): SummedEntry {
  const columns = sums.length / counts.length;
  for (const [matrix, count] of counts.entries()) {
    if (count === 0 || Number.isInteger(count)) continue;
    const whole = Math.max(1, Math.round(count));
    const one = sums.subarray(matrix * columns, (matrix + 1) * columns);
    for (const [column, sum] of one.entries()) one[column] = sum * (whole / count);
    counts[matrix] = whole;
  }
  return { name, columns, sums, counts };
}

/**
 * Adds up importance matrices of one model, as if one run had seen the text of all of them: sums and counts add up,
 * each file's times its weight. A tensor that only some files have is added up over those. A file with one count
 * for all experts counts for each of them, those that saw no token included, which it cannot tell apart.
 *
 * The means of old `.dat` files become sums again by their number of windows times the tokens of a window.
 * Windows of different lengths add up as well, token for token; but as the merged file names one length, it
 * has to be given.
 */
export class ImatrixMerge {
  readonly #asked: number | undefined;
  readonly #totals = new Map<string, Total>();
  #datasets: readonly string[] = [];
  readonly #paths: string[] = [];
  /** Old files, which cannot be added before the length of their windows is known. */
  readonly #waiting: { readonly matrix: SummedMatrix; readonly weight: number }[] = [];
  /** The first file that tells the length of its windows. */
  #said: { readonly path: string; readonly tokens: number } | undefined;

  /** @param chunkTokens tokens of a window; what the files agree on, or 512 if none says, when left out */
  constructor(chunkTokens?: number) {
    this.#asked = chunkTokens;
  }

  /**
   * Adds a file.
   *
   * @param weight finite and above 0: what each of its tokens counts
   * @throws ImatrixError `imatrix-mismatch` (exit code 2) when shapes or lengths of windows differ from those of
   *   the files before, or no tensor is among theirs; `imatrix-calls` when an old file does not tell what a tensor
   *   counts
   */
  add(matrix: SummedMatrix, weight = 1): void {
    const { path, entries, datasets, chunkTokens } = matrix;
    if (chunkTokens === null) checkCalls(matrix);
    else this.#checkWindows(path, chunkTokens);
    this.#checkCommon(matrix);
    this.#paths.push(path);
    this.#datasets = [...this.#datasets, ...datasets];
    if (chunkTokens === null) this.#waiting.push({ matrix, weight });
    else this.#addEntries({ path, factor: weight, entries });
  }

  /**
   * The sum of all files.
   *
   * @throws ImatrixError `imatrix-mismatch` (exit code 2) when the shapes of an old file differ from those of the others
   */
  finish(): MergedImatrix {
    const chunkTokens = this.#asked ?? this.#said?.tokens ?? DEFAULT_CHUNK_TOKENS;
    for (const { matrix, weight } of this.#waiting) {
      const { path, entries } = matrix;
      this.#addEntries({ path, factor: weight * chunkTokens, entries });
    }
    this.#waiting.length = 0;
    const totals = [...this.#totals.values()];
    const entries = totals.map(settle);
    let most = 0;
    for (const { counts } of entries) for (const count of counts) most = Math.max(most, count);
    return {
      contents: { datasets: this.#datasets, chunks: Math.floor(most / chunkTokens), chunkTokens, entries },
      partial: totals
        .map(({ name, paths }) => ({
          name,
          missing: this.#paths.filter((path) => !paths.includes(path)),
        }))
        .filter(({ missing }) => missing.length > 0),
    };
  }

  #checkWindows(path: string, tokens: number): void {
    if (this.#asked !== undefined) return;
    if (tokens < 1) {
      throw mismatch(
        `${path}: windows have ${tokens} tokens, expected at least 1.`,
        "Give the length of a window with --context.",
      );
    }
    this.#said ??= { path, tokens };
    if (tokens === this.#said.tokens) return;
    throw mismatch(
      `${path}: windows have ${tokens} tokens, expected ${this.#said.tokens} as in ${this.#said.path}.`,
      "Sums of different windows can be added; give the length that the merged file shall name with --context.",
    );
  }

  #checkCommon({ path, entries }: SummedMatrix): void {
    const known = (name: string): boolean =>
      this.#totals.has(name) || this.#waiting.some(({ matrix }) => matrix.entries.has(name));
    if (this.#paths.length === 0 || [...entries.keys()].some(known)) return;
    const [first] = entries.keys();
    throw mismatch(
      `${path}: none of its ${entries.size} tensors (${first}, …) is in ${this.#paths.join(", ")}.`,
      ONE_MODEL,
    );
  }

  #addEntries(share: Share): void {
    for (const entry of share.entries.values()) this.#addEntry(share, entry);
  }

  #addEntry({ path, factor }: Share, { name, sums, counts }: StoredEntry): void {
    const total = this.#totalOf(path, name, sums.length, counts.length);
    total.paths.push(path);
    const matrices = total.counts.length;
    const columns = sums.length / matrices;
    for (let matrix = 0; matrix < matrices; matrix++) {
      const count = counts[counts.length === 1 ? 0 : matrix] ?? 0;
      // No reader looks at the sums of such a matrix.
      if (count === 0) continue;
      total.counts[matrix]! += factor * count;
      const end = (matrix + 1) * columns;
      for (let at = matrix * columns; at < end; at++) total.sums[at]! += factor * (sums[at] ?? 0);
    }
  }

  /** The total to add to, with as many counts as the file or it has. */
  #totalOf(path: string, name: string, values: number, matrices: number): Total {
    let total = this.#totals.get(name);
    if (total === undefined) {
      total = { name, sums: new Float64Array(values), counts: new Float64Array(matrices), paths: [] };
      this.#totals.set(name, total);
      return total;
    }
    const { sums, counts, paths } = total;
    if (sums.length !== values) {
      throw mismatch(
        `${path}: ${name} has ${values} values, expected ${sums.length} as in ${paths[0]}.`,
        ONE_MODEL,
      );
    }
    if (counts.length === 1) total.counts = new Float64Array(matrices).fill(counts[0] ?? 0);
    else if (matrices !== 1 && matrices !== counts.length) {
      throw mismatch(
        `${path}: ${name} has ${matrices} matrices, expected ${counts.length} as in ${paths[0]}.`,
        ONE_MODEL,
      );
    }
    return total;
  }
}
