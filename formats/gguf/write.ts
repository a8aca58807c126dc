import {
  createOutput,
  type OutputFiles,
  type OutputOptions,
  type PlannedFile,
  reopenOutput,
} from "../output-files.js";
import type { GgufLayout } from "./plan.js";
import { partNames } from "./split.js";

export { partialPath } from "../output-files.js";
export { planGguf } from "./plan.js";
export { partNames } from "./split.js";

/** The files of one GGUF model in the making. */
export type GgufOutput = OutputFiles;

function plannedFiles(outputPath: string, { parts }: GgufLayout): PlannedFile[] {
  return partNames(outputPath, parts.length).map((path, index) => {
    const { header, size } = parts[index]!;
    return { path, size, head: header };
  });
}

/**
 * Makes the files of a layout under temporary names, at their full size and with their headers (see
 * `createOutput`).
 *
 * @param outputPath path of the model; several parts get llama.cpp's names (see partNames)
 * @throws OutputError when a file cannot be made, or is there and `overwrite` is not set
 */
export async function createGguf(
  outputPath: string,
  layout: GgufLayout,
  options: OutputOptions = {},
): Promise<GgufOutput> {
  return createOutput(plannedFiles(outputPath, layout), options);
}

/**
 * Opens the temporary files that a suspended or killed run left, with what it wrote (see `reopenOutput`).
 *
 * @param outputPath as given to `createGguf`
 * @returns undefined when a file is missing or has another size: there is nothing to go on from
 * @throws OutputError when a file cannot be opened, or its final name is taken and `overwrite` is not set
 */
export async function reopenGguf(
  outputPath: string,
  layout: GgufLayout,
  options: OutputOptions = {},
): Promise<GgufOutput | undefined> {
  return reopenOutput(plannedFiles(outputPath, layout), options);
}
