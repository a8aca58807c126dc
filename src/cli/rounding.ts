import { basename } from "node:path";
import type { ConvertedArtifact } from "../pipeline/convert.js";
import type { ArtifactRecord } from "../pipeline/manifest.js";

const UNROUNDED: ReadonlySet<string> = new Set(["F32", "F16", "BF16"]);

/** What an artifact says of how its values were rounded. */
interface Rounded {
  readonly method: ArtifactRecord["method"];
  readonly tensors: readonly { readonly type: string }[];
}

/**
 * By which method, and to make what the least: `Rounded by search: least Σ importance · error², importance from
 * imatrix.gguf.`
 *
 * @param importance path or name of the importance matrix
 * @returns an empty text for an artifact without blocks
 */
export function describeRounding({ method, tensors }: Rounded, importance: string | null): string {
  if (method === null || tensors.every(({ type }) => UNROUNDED.has(type))) return "";
  const weights = importance === null ? "" : `importance from ${basename(importance)}`;
  if (method === "ggml") return `Rounded by ggml's method${weights === "" ? "" : `, ${weights}`}.`;
  if (method === "gptq") return "Rounded with feedback of errors: least tr(E·H·Eᵀ), H of the inputs on text.";
  return weights === ""
    ? "Rounded by search: least Σ error²."
    : `Rounded by search: least Σ importance · error², ${weights}.`;
}

/** What was kept on its lattice, and what was not; an empty text where there is no lattice. */
export function describeLattices(
  type: string,
  { lattices, roundedLattices }: Pick<ConvertedArtifact, "lattices" | "roundedLattices">,
): string {
  const lines: string[] = [];
  if (lattices.length > 0)
    lines.push(`Trained for 4 bits, kept exactly in Q4_0 in ${type}: ${some(lattices)}.`);
  if (roundedLattices.length > 0)
    lines.push(`Trained for 4 bits, rounded otherwise in ${type}: ${some(roundedLattices)}.`);
  return lines.join("\n");
}

function some(names: readonly string[]): string {
  return names.length === 1 ? (names[0] ?? "") : `${names.length} tensors (${names[0]}, …)`;
}

/**
 * What was scaled: `Balanced in Q4_K_M: the channels of 12 tensors (blk.0.attn_norm.weight, …), by 2^-7 to 2^7.`
 *
 * @returns an empty text where nothing was
 */
export function describeBalance(type: string, balance: ArtifactRecord["balance"]): string {
  if (balance === null || balance.length === 0) return "";
  const exponents = balance.flatMap((fold) => fold.exponents.map(({ exponent }) => exponent));
  const range = `by 2^${Math.min(...exponents)} to 2^${Math.max(...exponents)}`;
  return `Balanced in ${type}: the channels of ${some(balance.map(({ name }) => name))}, ${range}.`;
}
