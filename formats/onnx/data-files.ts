import { realpath } from "node:fs/promises";
import { dirname, join, relative, isAbsolute, sep } from "node:path";
import { shown } from "../errors.js";
import { openFile } from "../file-source.js";
import type { ByteSource, OpenSource } from "../source.js";
import { COPY_AGAIN, OnnxError } from "./errors.js";
import { MAX_DATA_FILES } from "./limits.js";
import type { OnnxTensor } from "./tensors.js";

/** A file beside the graph that holds bytes of tensors. */
export interface OnnxDataFile {
  /** As the graph names it. */
  readonly location: string;
  /** Full path, links followed, for workers that open the file themselves and for messages. */
  readonly path: string;
  readonly size: number;
}

/** Turns the path of a data file into one that can be opened; throws when it must not be. */
export type ResolveLocation = (graphPath: string, location: string) => Promise<string>;

function isInside(folder: string, path: string): boolean {
  const way = relative(folder, path);
  return way !== "" && !isAbsolute(way) && way !== ".." && !way.startsWith(`..${sep}`);
}

/**
 * The real path of a local data file. A link may lead to where the graph itself lies: in the cache of the hub
 * the graph and its data are links into one folder.
 *
 * @throws OnnxError `onnx-location` when a link leads elsewhere, `onnx-data-missing` when there is no such file
 */
export async function resolveLocal(graphPath: string, location: string): Promise<string> {
  const folder = dirname(graphPath);
  const wanted = join(folder, ...location.split("/"));
  let found: string;
  try {
    found = await realpath(wanted);
  } catch (cause) {
    const { code } = cause as NodeJS.ErrnoException;
    if (code !== "ENOENT" && code !== "ENOTDIR") {
      throw new OnnxError("onnx-data-missing", `${wanted}: the data file cannot be found (${code}).`, {
        cause,
      });
    }
    throw new OnnxError(
      "onnx-data-missing",
      `${wanted}: there is no such data file, expected by ${graphPath}.`,
      {
        cause,
        exitCode: 2,
        advice: "Put the data files beside the graph under the names that it gives them.",
      },
    );
  }
  const homes = [await realpath(folder), dirname(await realpath(graphPath))];
  if (homes.some((home) => isInside(home, found))) return found;
  throw new OnnxError("onnx-location", `${wanted}: the link leads out of the folder of ${graphPath}.`, {
    advice:
      "Do not load this model unless you trust who made it; copy the data file in place of the link if you do.",
  });
}

interface Span {
  readonly offset: number;
  readonly length: number;
  readonly path: string;
}

/** Tensors may share their bytes as a whole, as tied weights do; a part of another one is damage or worse. */
function checkOverlaps(path: string, spans: readonly Span[]): void {
  const sorted = spans
    .filter(({ length }) => length > 0)
    .toSorted((a, b) => a.offset - b.offset || a.length - b.length);
  for (const [index, span] of sorted.entries()) {
    const before = sorted[index - 1];
    if (before === undefined || before.offset + before.length <= span.offset) continue;
    if (before.offset === span.offset && before.length === span.length) continue;
    throw new OnnxError(
      "onnx-overlap",
      `${path}: the data of ${span.path} overlaps that of ${before.path}.`,
      {
        advice: COPY_AGAIN,
      },
    );
  }
}

async function sizeOf(path: string, open: OpenSource): Promise<number> {
  const source = await open(path);
  try {
    return source.size;
  } finally {
    await source.close();
  }
}

/**
 * Finds the data files of a model and checks that they hold every byte that its tensors have outside.
 *
 * @param graphPath path (or address) of the graph file
 * @returns the files by location, in the order of their first use
 * @throws OnnxError `onnx-location`, `onnx-data-missing`, `onnx-truncated`, `onnx-overlap`, `onnx-limit`
 * @throws FormatError when a file cannot be opened
 */
export async function findDataFiles(
  graphPath: string,
  tensors: readonly OnnxTensor[],
  resolve: ResolveLocation,
  open: OpenSource,
): Promise<ReadonlyMap<string, OnnxDataFile>> {
  const files = new Map<string, OnnxDataFile>();
  const spans = new Map<string, Span[]>();
  for (const { path, place } of tensors) {
    if (place.kind !== "external") continue;
    const { location, offset, length } = place;
    let file = files.get(location);
    if (file === undefined) {
      if (files.size === MAX_DATA_FILES) {
        throw new OnnxError("onnx-limit", `${graphPath}: more than ${MAX_DATA_FILES} data files are named.`);
      }
      const found = await resolve(graphPath, location);
      file = { location, path: found, size: await sizeOf(found, open) };
      files.set(location, file);
    }
    if (offset + length > file.size) {
      throw new OnnxError(
        "onnx-truncated",
        `${file.path}: the data of ${path} ends at byte ${offset + length}, but the file has ${file.size}.`,
        { advice: COPY_AGAIN },
      );
    }
    // By real path, so that two names of one file are seen as such.
    const held = spans.get(file.path) ?? [];
    held.push({ offset, length, path });
    spans.set(file.path, held);
  }
  for (const [path, held] of spans) checkOverlaps(path, held);
  return files;
}

/** Reads bytes of tensors; files are opened when they are first needed. `close` has to be called. */
export class TensorReader {
  readonly #files: ReadonlyMap<string, OnnxDataFile>;
  readonly #open: OpenSource;
  readonly #sources = new Map<string, Promise<ByteSource>>();

  /**
   * @param files as `openOnnx` found them
   * @param open how a path becomes a source; local files by default
   */
  constructor(files: ReadonlyMap<string, OnnxDataFile>, open: OpenSource = openFile) {
    this.#files = files;
    this.#open = open;
  }

  /**
   * Fills `target` with a tensor's bytes from `start` on.
   *
   * @param tensor one of the model's
   * @param start offset in the tensor's data in bytes
   * @throws OnnxError `onnx-range` when the range lies outside the tensor, or the tensor holds texts
   * @throws FormatError when the file cannot be read
   */
  async read(tensor: OnnxTensor, target: Uint8Array, start = 0): Promise<void> {
    const { place, byteLength, path } = tensor;
    const end = start + target.length;
    if (place.kind === "strings" || !Number.isSafeInteger(start) || start < 0 || end > byteLength) {
      throw new OnnxError(
        "onnx-range",
        `Bytes ${start} to ${end} of tensor ${path} were asked for, it has ${byteLength}.`,
      );
    }
    if (place.kind === "inline") target.set(place.bytes.subarray(start, end));
    else await (await this.#source(place.location)).read(target, place.offset + start);
  }

  async close(): Promise<void> {
    const opened = await Promise.allSettled(this.#sources.values());
    this.#sources.clear();
    for (const result of opened) if (result.status === "fulfilled") await result.value.close();
  }

  async #source(location: string): Promise<ByteSource> {
    const opened = this.#sources.get(location);
    if (opened !== undefined) return opened;
    const file = this.#files.get(location);
    if (file === undefined) {
      throw new OnnxError("onnx-range", `The data file ${shown(location)} is not one of the model's.`);
    }
    const source = this.#open(file.path);
    this.#sources.set(location, source);
    return source;
  }
}
