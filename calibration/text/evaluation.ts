import { join } from "node:path";
import { packageRoot } from "../../src/base/paths.js";

/**
 * Folder of the evaluation set that comes with lapidary: prose, code, chats and twenty languages. Nothing
 * is ever calibrated on it.
 */
export function evaluationSet(): string {
  return join(packageRoot, "fixtures", "evaluation");
}

/**
 * Folder of the calibration set that comes with lapidary: prose, dialogue, mathematics, code, chats, calls of
 * tools and some ninety languages, none of it from the evaluation set.
 */
export function calibrationSet(): string {
  return join(packageRoot, "fixtures", "calibration");
}
