import { createHash } from "node:crypto";
import { resolve } from "node:path";
import type { OutputFiles, PlannedFile } from "../../formats/output-files.js";
import { packageVersion } from "../base/paths.js";
import { bytesRead, rangesOf, type TensorJob } from "../pool/tiles.js";
import { identify, type JournalSubject } from "./journal.js";

/** Where a piece of a tensor goes. */
export interface Place {
  /** Index of the file. */
  readonly file: number;
  /** In bytes from the start of the file. */
  readonly offset: number;
}

/** A tensor that is read from a file: a job that does not know yet what its outputs are called. */
export interface StoredTensor extends Omit<TensorJob, "outputs"> {
  readonly kind: "stored";
  /** Of each output, in the job's order. */
  readonly places: readonly Place[];
}

/** A short tensor that is made in memory. */
export interface GeneratedTensor {
  readonly kind: "generated";
  readonly name: string;
  /** As the file holds it. */
  readonly data: Uint8Array;
  readonly place: Place;
}

export type WorkTensor = StoredTensor | GeneratedTensor;

/** Files to write, whatever their format, and the tensors that fill them. */
export interface Work {
  /** Absolute path that the lock and the journal are named after: of the model, or of the folder of its files. */
  readonly output: string;
  /** Absolute paths; the first file, which programs are pointed at, appears last. */
  readonly files: readonly PlannedFile[];
  /** Their order is part of the journal. */
  readonly tensors: readonly WorkTensor[];
  /** Hash of everything that decides the bytes of the tensors and, where the heads do not tell, their places. */
  readonly key: string;
  /** What is made, for messages, such as the name of a mix. */
  readonly mix: string;
  /** Path of the importance matrix, or null. */
  readonly importance: string | null;
  /**
   * In which way files that are there, or were left unfinished, have other heads than the planned ones, such as
   * `other metadata (general.name)`. Asked only where they have; undefined when no difference can be told.
   */
  readonly headDifference: (paths: readonly string[]) => Promise<string | undefined>;
}

/** Bytes of a tensor that are read. */
export function readBytes(tensor: WorkTensor): number {
  if (tensor.kind === "generated") return 0;
  return bytesRead({ ...tensor, outputs: [] }, { first: 0, values: tensor.row * tensor.rows });
}

/** What a tensor takes in each of its places. */
function sizesOf(tensor: WorkTensor): { readonly place: Place; readonly bytes: number }[] {
  if (tensor.kind === "generated") return [{ place: tensor.place, bytes: tensor.data.length }];
  const outputs = tensor.places.map(({ offset }) => ({ path: "", offset }));
  const ranges = rangesOf({ ...tensor, outputs }, { first: 0, values: tensor.row * tensor.rows });
  return tensor.places.map((place, index) => ({ place, bytes: ranges[index]?.bytes ?? 0 }));
}

/** Bytes of a tensor that are written. */
export function writtenBytes(tensor: WorkTensor): number {
  return sizesOf(tensor).reduce((sum, { bytes }) => sum + bytes, 0);
}

/** What no caller may plan: tensors that lie outside of their file, or over its head. */
export function checkPlaces({ files, tensors }: Work): void {
  for (const tensor of tensors) {
    for (const { place, bytes } of sizesOf(tensor)) {
      const { head, size } = files[place.file] ?? { head: new Uint8Array(), size: -1 };
      if (place.offset >= head.length && place.offset + bytes <= size) continue;
      throw new RangeError(
        `tensor ${tensor.name} has ${bytes} bytes at ${place.offset} of file ${place.file}, which has ${size} bytes and a head of ${head.length}`,
      );
    }
  }
}

/** How a tensor gets from the file that it comes from to its places in files in the making. */
export function jobOf({ places, ...job }: StoredTensor, { parts }: OutputFiles): TensorJob {
  const outputs = places.map(({ file, offset }) => {
    const part = parts[file];
    if (part === undefined) throw new RangeError(`tensor ${job.name} has no file`);
    return { path: part.temporaryPath, offset };
  });
  return { ...job, outputs };
}

/** The files that work reads. */
export function inputPaths({ tensors }: Work): string[] {
  const paths = tensors.flatMap((tensor) => {
    if (tensor.kind === "generated") return [];
    return tensor.copies === undefined ? [tensor.input] : tensor.copies.map(({ path }) => path);
  });
  return [...new Set(paths.map((path) => resolve(path)))];
}

/** What a journal of the work begins with. */
export async function journalSubject(work: Work): Promise<JournalSubject> {
  const { key, files, mix, importance } = work;
  const heads = createHash("sha256");
  for (const { head } of files) heads.update(head);
  return {
    version: packageVersion(),
    plan: key,
    header: heads.digest("hex"),
    inputs: await Promise.all(inputPaths(work).map((path) => identify(path))),
    mix,
    // It has been read; what happens to it afterwards makes no difference.
    importance: importance === null ? null : await identify(resolve(importance)).catch(() => null),
  };
}
