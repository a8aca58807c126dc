import { BaseSequencer, type TestSpecification } from "vitest/node";

/** Files of about five seconds and more, the longest first; the end of the run would wait for one that starts late. */
const LONG = [
  "pipeline/transformers-js",
  "pipeline/export-logits",
  "pipeline/export",
  "verify/onnx",
  "commands/packages",
  "commands/process",
  "commands/allocation",
  "pipeline/build",
  "blocks/encode/lattice",
  "quantize/redo",
  "quantize/campaign",
  "commands/redo",
  "quantize/resume",
  "pipeline/load",
  "commands/memory",
  "pipeline/calibrate",
  "blocks/kernels",
  "quantize/quantize",
  "blocks/encode/k-affine",
  "pipeline/diff",
] as const;

/** Files that share processes come last, one behind the other: a process is kept while the next file may use it. */
function rank({ moduleId, project }: TestSpecification): number {
  if (!project.config.isolate) return LONG.length + 1;
  const place = LONG.findIndex((name) => moduleId.endsWith(`/test/${name}.test.ts`));
  return place === -1 ? LONG.length : place;
}

/** Starts files in an order that keeps all processes busy to the end, whatever earlier runs are remembered. */
export class LongestFirst extends BaseSequencer {
  override sort(files: TestSpecification[]): Promise<TestSpecification[]> {
    return Promise.resolve(files.toSorted((a, b) => rank(a) - rank(b)));
  }
}
