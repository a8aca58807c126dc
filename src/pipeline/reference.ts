import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { outputFailure } from "../base/atomic-file.js";
import { openGguf } from "../../formats/gguf/read.js";
import { convert } from "./convert.js";
import { isOnnxPath } from "./onnx-package.js";
import type { Reporter } from "./progress.js";
import { type ModelSource, openSource, sourceKind } from "./source.js";

/** Weights of this many bytes in F32 still make a reference in F32; larger ones make it in BF16. */
const F32_LIMIT_BYTES = 2 * 1024 ** 3;

/** A file that others are compared with. */
export interface Reference {
  readonly path: string;
  /** Name of the model, which may mark it as instruction tuned. */
  readonly name: string;
}

/**
 * Type of the reference made from a source: F32 while the weights, as F32, take less than 2 GiB, else
 * BF16, which holds every released checkpoint without loss.
 */
export function referenceType(source: ModelSource): "F32" | "BF16" {
  const values =
    source.kind === "gguf"
      ? source.model.tensors.reduce((sum, { ne }) => sum + ne.reduce((product, size) => product * size, 1), 0)
      : source.bound.weights.reduce(
          (sum, { weight }) => sum + weight.shape.reduce((product, size) => product * size, 1),
          0,
        );
  return values * 4 < F32_LIMIT_BYTES ? "F32" : "BF16";
}

/**
 * Hands a reference file to `use`. A GGUF or a package for ONNX is its own reference; from the folder of a checkpoint one is
 * written to a temporary folder and removed afterwards, whatever happens.
 *
 * @param before called with the model's name when a reference has to be written, before that is done
 */
export async function withReference<T>(
  path: string | null,
  options: { readonly threads: number; readonly memory: number },
  reporter: Reporter,
  signal: AbortSignal,
  before: (name: string) => Promise<void>,
  use: (reference: Reference | null) => Promise<T>,
): Promise<T> {
  if (path === null) return use(null);
  if (await isOnnxPath(path)) return use({ path, name: path });
  if ((await sourceKind(path)) === "gguf") {
    const model = await openGguf(path);
    return use({ path: model.paths[0] ?? path, name: path });
  }
  const source = await openSource(path);
  await before(source.name);
  const folder = await mkdtemp(join(tmpdir(), "lapidary-")).catch((error: unknown) => {
    throw outputFailure(tmpdir(), error);
  });
  try {
    const [made] = await convert(
      {
        source: path,
        types: [referenceType(source)],
        out: folder,
        matchConverter: false,
        keepUnusedKv: false,
        splitMaxBytes: undefined,
        threads: options.threads,
        memory: options.memory,
        dryRun: false,
        force: true,
      },
      reporter,
      signal,
    );
    return await use({ path: made?.files[0] ?? folder, name: source.name });
  } finally {
    await rm(folder, { recursive: true, force: true });
  }
}
