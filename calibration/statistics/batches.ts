import { StatisticsError } from "./errors.js";

/**
 * Tokens that run at once. Moments are handed out once a batch, and at 6,144 columns that costs as much as summing
 * 600 tokens; at 21,504 columns (31B) the values of a layer for so many tokens take 1.4 GB.
 */
const BATCH_TOKENS = 4096;

/** Windows of one length. */
export interface Batch {
  readonly windows: readonly Int32Array[];
  /** [windows, tokens of each] */
  readonly dims: readonly [number, number];
  /** All of them. */
  readonly tokens: number;
}

/**
 * Puts neighbouring windows of one length together.
 *
 * @param vocabulary rows of the embedding
 * @param most tokens of a batch of several windows
 * @throws StatisticsError for no windows, an empty one, and for ids that are no tokens
 */
export function makeBatches(
  windows: readonly Int32Array[],
  vocabulary: number,
  most = BATCH_TOKENS,
): Batch[] {
  if (windows.length === 0) {
    throw new StatisticsError("window-count", "there are no windows of tokens, expected at least one");
  }
  const groups: Int32Array[][] = [];
  for (const [index, window] of windows.entries()) {
    if (window.length === 0) {
      throw new StatisticsError("window-size", `window ${index} is empty, expected at least one token`);
    }
    const stranger = window.find((id) => id < 0 || id >= vocabulary);
    if (stranger !== undefined) {
      throw new StatisticsError(
        "unknown-token",
        `window ${index} has the token ${stranger}, expected 0 to ${vocabulary - 1}`,
      );
    }
    const last = groups.at(-1);
    const fits = last?.[0]?.length === window.length && (last.length + 1) * window.length <= most;
    if (last !== undefined && fits) last.push(window);
    else groups.push([window]);
  }
  return groups.map((group) => {
    const dims = [group.length, group[0]!.length] as const;
    return { windows: group, dims, tokens: dims[0] * dims[1] };
  });
}

/** Token ids of a batch, [windows, tokens]. */
export function idsOf({ windows, tokens }: Batch): BigInt64Array {
  const ids = new BigInt64Array(tokens);
  let at = 0;
  for (const window of windows) for (const id of window) ids[at++] = BigInt(id);
  return ids;
}
