import { join } from "node:path";

/** Where the parts of statistics lie. */
export function statisticsFolders(folder: string) {
  return {
    inputs: join(folder, "inputs"),
    gradients: join(folder, "gradients"),
    imatrix: join(folder, "imatrix.gguf"),
    windows: join(folder, "windows.i32"),
  };
}
