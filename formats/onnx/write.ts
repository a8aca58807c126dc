import { basename, dirname, join } from "node:path";
import { shown } from "../errors.js";
import {
  createOutput,
  type OutputFiles,
  type OutputOptions,
  type PlannedFile,
  reopenOutput,
} from "../output-files.js";
import { OnnxError } from "./errors.js";
import type { ExternalDataLayout } from "./plan.js";

export { planExternalData } from "./plan.js";

/** The files of one ONNX model in the making: part 0 is the graph, the others are its data files. */
export type OnnxOutput = OutputFiles;

/**
 * Paths of the files that a model is written to: the graph, then its data files, in the same folder.
 *
 * @throws OnnxError when the layout is that of a graph of another name, which could not find its data
 */
export function onnxPaths(graphPath: string, layout: ExternalDataLayout): string[] {
  if (basename(graphPath) !== layout.graphFile) {
    throw new OnnxError(
      "onnx-name",
      `${graphPath}: the data files were laid out for ${shown(layout.graphFile)}, expected the same name.`,
    );
  }
  return [graphPath, ...layout.files.map(({ name }) => join(dirname(graphPath), name))];
}

function plannedFiles(graphPath: string, graph: Uint8Array, layout: ExternalDataLayout): PlannedFile[] {
  const nothing = new Uint8Array(0);
  return onnxPaths(graphPath, layout).map((path, part) =>
    part === 0
      ? { path, size: graph.length, head: graph }
      : { path, size: layout.files[part - 1]!.size, head: nothing },
  );
}

/**
 * Makes the files of a model under temporary names: the graph as it will be, the data files at their full size,
 * for `writeTensorRange` to fill in any order. On `commit` the graph appears last.
 *
 * @param graphPath path of the graph file
 * @param graph its bytes, from `encodeModel`
 * @param layout of its data files, which the graph has to agree with
 * @throws OutputError when a file cannot be made, or is there and `overwrite` is not set
 */
export async function createOnnx(
  graphPath: string,
  graph: Uint8Array,
  layout: ExternalDataLayout,
  options: OutputOptions = {},
): Promise<OnnxOutput> {
  return createOutput(plannedFiles(graphPath, graph, layout), options);
}

/**
 * Opens the temporary files that a suspended or killed run left, with what it wrote; the graph is written anew
 * (see `reopenOutput`).
 *
 * @param graphPath as given to `createOnnx`, like the graph and the layout
 * @returns undefined when a file is missing or has another size: there is nothing to go on from
 * @throws OutputError when a file cannot be opened, or its final name is taken and `overwrite` is not set
 */
export async function reopenOnnx(
  graphPath: string,
  graph: Uint8Array,
  layout: ExternalDataLayout,
  options: OutputOptions = {},
): Promise<OnnxOutput | undefined> {
  return reopenOutput(plannedFiles(graphPath, graph, layout), options);
}
