import { existsSync, readFileSync } from "node:fs";
import { dirname, join, relative } from "node:path";
import { fileURLToPath, pathToFileURL } from "node:url";

function findRoot(): string {
  let folder = dirname(fileURLToPath(import.meta.url));
  while (!existsSync(join(folder, "package.json"))) {
    const parent = dirname(folder);
    if (parent === folder) throw new Error("lapidary's package.json is missing above its own code");
    folder = parent;
  }
  return folder;
}

/** Folder of lapidary's package.json, the same whether the code runs from source or from dist. */
export const packageRoot: string = findRoot();

/**
 * URL of a built file beside a module. Worker threads and child processes load JavaScript only, so a
 * module that runs from source (in tests) points into dist, which `npm run build` fills.
 *
 * @param moduleUrl `import.meta.url` of the caller
 * @param file path relative to the caller, with its built extension, such as `./worker.js`
 */
export function builtUrl(moduleUrl: string, file: string): URL {
  const inPackage = relative(packageRoot, fileURLToPath(new URL(file, moduleUrl)));
  const built = inPackage.startsWith("dist") ? inPackage : join("dist", inPackage);
  return pathToFileURL(join(packageRoot, built));
}

/** Version in lapidary's package.json. */
export function packageVersion(): string {
  const manifest: unknown = JSON.parse(readFileSync(join(packageRoot, "package.json"), "utf8"));
  return (manifest as { version: string }).version;
}
