import { readFile } from "node:fs/promises";
import { join } from "node:path";
import type { PlannedMethod } from "../plan/plan.js";
import type { PlannedOnnxMethod } from "../plan/onnx/plan.js";
import type { BenchResult } from "../engines/types.js";
import type { ValueRange } from "../verify/onnx/range.js";
import type { VerifyResult } from "../verify/verify.js";
import { writeFileAtomic } from "../base/atomic-file.js";
import type { BalancedFold } from "./balance.js";
import { PipelineError } from "./errors.js";
import type { HashedFile } from "./hash.js";

/** Name of the manifest in the folder of its artifacts. */
export const MANIFEST_NAME = "manifest.json";

/** Raised when a field changes its meaning or goes away; new fields do not raise it. */
export const MANIFEST_VERSION = 1;

/** A manifest of every tensor of a 60-layer model has 150 kB; 1,000 artifacts of that are out of reach. */
const MAX_MANIFEST_BYTES = 64 * 1024 * 1024;

/** What was rounded. */
export interface SourceRecord {
  readonly kind: "checkpoint" | "gguf";
  /** Repository or folder name, such as `gemma-4-E2B-it`. */
  readonly name: string;
  /** Every file that went in, by content. */
  readonly files: readonly HashedFile[];
}

/** One tensor of an artifact. */
export interface TensorRecord {
  readonly name: string;
  readonly type: string;
  /** ggml's order: fastest dimension first. */
  readonly ne: readonly number[];
  readonly bytes: number;
}

export interface ArtifactRecord {
  readonly format: "gguf" | "onnx";
  /** One file, or all parts of a split set, the first one first; for ONNX the decoder's, then the embedding's. */
  readonly files: readonly HashedFile[];
  /** Sum over the files. */
  readonly bytes: number;
  /** Mix, such as `Q4_0`, or dtype, such as `q4f16`. */
  readonly type: string;
  /** Identity of the plan: source layout, options and type of every tensor. */
  readonly plan: string;
  /** Bits of file a weight. */
  readonly bitsPerWeight: number;
  /** How values found their places in blocks; null in manifests of before it was kept. */
  readonly method: PlannedMethod | PlannedOnnxMethod | null;
  /** The importance matrix that weighed the errors; null without one. */
  readonly importance: HashedFile | null;
  /** Folds whose channels were scaled before rounding; null where none was looked for. */
  readonly balance: readonly BalancedFold[] | null;
  /** Tensors that were on lattices and were written as they are; null where nobody looked. */
  readonly lattices: readonly string[] | null;
  readonly source: SourceRecord;
  readonly tensors: readonly TensorRecord[];
  /** SHA-256 over everything that decides the measurements besides the file; null before they were made. */
  readonly settings: string | null;
  /** The file that it was compared with, and the model that was made from. */
  readonly reference: (HashedFile & { readonly type: string; readonly source: string }) | null;
  readonly verification: VerifyResult | null;
  readonly throughput: BenchResult | null;
  /** What the products of an ONNX artifact are computed in where it was measured; null where there is no choice. */
  readonly accuracyLevel: number | null;
  /** The same measurements with products in single precision; null where those above are such. */
  readonly exact: { readonly verification: VerifyResult; readonly throughput: BenchResult } | null;
  /** How large values got before an ONNX artifact that computes in halves was written; null for all others. */
  readonly range: ValueRange | null;
}

/** What `build` did: inputs and outputs by content, versions, types of all tensors, and all measurements. */
export interface Manifest {
  readonly manifestVersion: typeof MANIFEST_VERSION;
  /** False while a build runs, or where one was broken off. */
  readonly complete: boolean;
  readonly versions: {
    readonly lapidary: string;
    readonly node: string;
    readonly platform: string;
    /** The engine that measured; null before it was asked. */
    readonly engine: string | null;
    /** What the engine says of the machine. */
    readonly system: string | null;
  };
  readonly artifacts: readonly ArtifactRecord[];
}

/**
 * The manifest of a folder.
 *
 * @returns null when the folder has none
 * @throws PipelineError when the file is there and is no manifest of this version
 */
export async function readManifest(folder: string): Promise<Manifest | null> {
  const path = join(folder, MANIFEST_NAME);
  let text: Buffer;
  try {
    text = await readFile(path);
  } catch (cause) {
    if ((cause as NodeJS.ErrnoException).code === "ENOENT") return null;
    throw new PipelineError("manifest", `${path}: cannot be read (${(cause as Error).message}).`, { cause });
  }
  if (text.length > MAX_MANIFEST_BYTES) {
    throw new PipelineError("manifest", `${path}: ${text.length} bytes, more than any manifest has.`);
  }
  const { manifestSchema } = await import("./manifest-schema.js");
  let parsed: unknown;
  try {
    parsed = JSON.parse(text.toString("utf8"));
  } catch (cause) {
    throw new PipelineError("manifest", `${path}: not JSON (${(cause as Error).message}).`, {
      cause,
      advice: "Move the file away, or choose another output folder.",
    });
  }
  const checked = manifestSchema.safeParse(parsed);
  if (!checked.success) {
    const issue = checked.error.issues[0];
    const where = issue === undefined ? "" : ` (${issue.path.join(".")}: ${issue.message})`;
    throw new PipelineError("manifest", `${path}: not a manifest of version ${MANIFEST_VERSION}${where}.`, {
      advice: "Move the file away, or choose another output folder.",
    });
  }
  return checked.data as unknown as Manifest;
}

/** Writes the manifest of a folder in one step: readers see the old one or the new one. */
export async function writeManifest(folder: string, manifest: Manifest): Promise<void> {
  await writeFileAtomic(join(folder, MANIFEST_NAME), `${JSON.stringify(manifest, null, 1)}\n`);
}
