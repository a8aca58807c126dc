import { existsSync } from "node:fs";
import { TextError } from "./errors.js";

/** A text to calibrate on. */
export interface CalibrationSource {
  /** File or folder that `loadDocuments` understands; null for the set that comes with lapidary. */
  readonly path: string | null;
  /** Its share of the windows, in proportion to the weights of the other sources. */
  readonly weight: number;
}

/** How the set that comes with lapidary is called on the command line and in the manifest. */
export const builtInName = "default";
/** Sources of one calibration; a mix of languages and domains has some ten. */
export const maxSources = 64;
/** Largest weight; a source a million times as important as another makes that other one meaningless. */
export const maxWeight = 1e6;

/** Decimal numbers as people write them: no sign, no exponent, no other base. */
const decimal = /^(?:\d+\.?\d*|\.\d+)$/;

export function sourceName({ path }: CalibrationSource): string {
  return path ?? builtInName;
}

function named(path: string): string | null {
  return path === builtInName ? null : path;
}

/**
 * Reads a source as it is written on the command line: `PATH`, `PATH=WEIGHT`, or the same with the word
 * `default` for the set that comes with lapidary (a file of that name is `./default`). A path that exists
 * as written wins over the split at its last `=`. The path need not exist: that is found out on reading.
 *
 * @throws TextError `source-weight`, `source-path`, both exit code 2
 */
export function parseSource(spec: string): CalibrationSource {
  const at = spec.lastIndexOf("=");
  if (at === -1 || existsSync(spec)) {
    if (spec === "") {
      throw new TextError("source-path", "A calibration text has no name, expected PATH or PATH=WEIGHT.", {
        exitCode: 2,
      });
    }
    return { path: named(spec), weight: 1 };
  }
  const path = spec.slice(0, at);
  const weight = spec.slice(at + 1);
  if (path === "") {
    throw new TextError("source-path", `${spec}: there is no path before the weight.`, { exitCode: 2 });
  }
  if (!decimal.test(weight) || !(Number(weight) > 0) || Number(weight) > maxWeight) {
    throw new TextError(
      "source-weight",
      `${spec}: there is no such file, and "${weight}" after the last "=" is not a weight, expected a number above 0 and at most ${maxWeight}.`,
      { exitCode: 2, advice: "Write PATH or PATH=WEIGHT, such as notes.txt=2." },
    );
  }
  return { path: named(path), weight: Number(weight) };
}
