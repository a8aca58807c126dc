import { readFile } from "node:fs/promises";
import { builtUrl } from "../../base/paths.js";
import { BlockError } from "../errors.js";

let compiled: Promise<WebAssembly.Module> | undefined;

/**
 * The compiled kernels; the module can be posted to worker threads, where each makes its own `Kernels`. It takes
 * some 10 ms on another thread, once a process: who calls early and goes on with other work waits for nothing later.
 *
 * @throws BlockError `kernels-missing` when the package was not built, `kernels-damaged` when the file is not
 *   WebAssembly that this Node can run
 */
export function compileKernels(): Promise<WebAssembly.Module> {
  compiled ??= compile();
  return compiled;
}

async function compile(): Promise<WebAssembly.Module> {
  const url = builtUrl(import.meta.url, "./kernels.wasm");
  let bytes: Uint8Array<ArrayBuffer>;
  try {
    bytes = await readFile(url);
  } catch (cause) {
    throw new BlockError("kernels-missing", `the compiled kernels are not at ${url.pathname}`, {
      cause,
      advice: "Run npm run build.",
    });
  }
  try {
    return await WebAssembly.compile(bytes);
  } catch (cause) {
    throw new BlockError("kernels-damaged", `the compiled kernels at ${url.pathname} cannot be loaded`, {
      cause,
      advice: "Run npm run build again with Node 20 or newer.",
    });
  }
}
