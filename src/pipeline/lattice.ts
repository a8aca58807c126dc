import { isLattice, type LatticeCandidate } from "../../calibration/lattice/detect.js";
import { alwaysF32 } from "../plan/converter.js";
import type { Reporter } from "./progress.js";
import type { ModelSource } from "./source.js";
import { storedTensors } from "./stored-tensors.js";

/** Matrices and tables in BF16, by their names in GGUF. */
function candidatesOf(source: ModelSource): LatticeCandidate[] {
  return storedTensors(source, "gguf")
    .filter(({ name, type, ne }) => type === "BF16" && !alwaysF32(name, ne) && (ne[0] ?? 0) % 32 === 0)
    .map(({ name, path, offset, values }) => ({ name, path, offset, values }));
}

/**
 * Names in GGUF of the tensors of a model that lie on lattices that Q4_0 holds. An ordinary checkpoint is known by a
 * page of each tensor; one that was trained for 4 bits is read whole.
 *
 * @throws FormatError when a file cannot be read; the signal's reason after an abort
 */
export async function findLattices(
  source: ModelSource,
  reporter: Reporter,
  signal: AbortSignal,
): Promise<ReadonlySet<string>> {
  const candidates = candidatesOf(source);
  const total = candidates.reduce((sum, { values }) => sum + 2 * values, 0);
  const found = new Set<string>();
  let done = 0;
  for (const candidate of candidates) {
    if (await isLattice(candidate, signal)) {
      if (found.size === 0) reporter.start("look for lattices");
      found.add(candidate.name);
    }
    done += 2 * candidate.values;
    if (found.size > 0) reporter.progress({ done, total, unit: "bytes" });
  }
  if (found.size > 0) reporter.finish(`${found.size} tensors lie on one`);
  return found;
}
