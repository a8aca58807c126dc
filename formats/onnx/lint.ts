import { lintAttention } from "./lint/attention.js";
import { lintBorders } from "./lint/borders.js";
import { lintExperts } from "./lint/experts.js";
import { lintFiles, type SizedFile } from "./lint/files.js";
import { type Finding, Findings } from "./lint/findings.js";
import { lintStructure } from "./lint/structure.js";
import { lintDomains, lintVersions } from "./lint/versions.js";
import { lintAccuracyLevels, lintWeights } from "./lint/weights.js";
import { scopesOf } from "./scopes.js";
import type { ModelProto } from "./types.js";

export type { Finding } from "./lint/findings.js";

export interface LintOptions {
  /** The data files of the model; of their sizes nothing is said when left out. */
  readonly dataFiles?: readonly SizedFile[];
  /** Whether batches are padded on the left where the model is used, as transformers.js does; false by default. */
  readonly padsLeft?: boolean;
}

/**
 * Looks for what makes ONNX Runtime refuse a model, crash, or compute something else than was meant, and for
 * what makes it slow. Of the tensors only types and shapes are looked at. The rules and their advice are in
 * `RULES`; what ONNX Runtime does was measured with version 1.30, its CPU provider and its Node binding.
 *
 * @returns what was found: the model as a whole, then every graph in the order of its nodes
 */
export function lintModel(
  model: ModelProto,
  { dataFiles = [], padsLeft = false }: LintOptions = {},
): readonly Finding[] {
  const findings = new Findings();
  const scopes = scopesOf(model);
  lintVersions(model, findings);
  lintFiles(dataFiles, findings);
  lintBorders(model.graph, findings);
  lintAccuracyLevels(scopes, findings);
  for (const scope of scopes) {
    lintStructure(scope, findings);
    lintDomains(scope, findings);
    lintAttention(scope, padsLeft, findings);
    lintWeights(scope, findings);
    lintExperts(scope, findings);
  }
  return findings.finish();
}
