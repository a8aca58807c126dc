import { basename } from "node:path";
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
