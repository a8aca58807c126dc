import { padTo } from "../padding.js";
import { encodeHeader, type TensorInfo } from "./encode.js";
import { GgufError } from "./errors.js";
import { ALIGNMENT_KEY, DEFAULT_ALIGNMENT, shown } from "./format.js";
import {
  MAX_DIMENSIONS,
  MAX_KEY_BYTES,
  MAX_METADATA_KEYS,
  MAX_TENSOR_NAME_BYTES,
  MAX_TENSORS,
} from "./limits.js";
import { MAX_PARTS, SPLIT_COUNT, SPLIT_NO, SPLIT_TENSORS } from "./split.js";
import { encodeUtf8 } from "./strings.js";
import { tensorBytes } from "./tensor-types.js";
import type { GgufTensor, GgufValue } from "./types.js";
import { gguf } from "./values.js";

/** A tensor that is going to be written. */
export type GgufTensorPlan = Pick<GgufTensor, "name" | "type" | "ne">;

export interface GgufPlan {
  /** Keys and values in the order they are to have in the file; a `GgufMetadata` will do. */
  readonly metadata: Iterable<readonly [key: string, value: GgufValue]>;
  readonly tensors: readonly GgufTensorPlan[];
  /**
   * Power of two, at least 8. Left out: what `general.alignment` in the metadata says, else 32. A
   * value other than 32 is added to the metadata when it is not there.
   */
  readonly alignment?: number;
  /** Bounds on each part; without any, one file is written. */
  readonly split?: {
    /** Tensor bytes with their padding, header not counted. A larger tensor gets a part of its own. */
    readonly maxBytes?: number;
    readonly maxTensors?: number;
    /** Number of tensors of each part, in place of bounds; they add up to all tensors. */
    readonly counts?: readonly number[];
  };
}

/** One file of the layout. */
export interface GgufPartLayout {
  /** The encoded header, padded: tensor data follows at once. */
  readonly header: Uint8Array;
  readonly tensors: readonly GgufTensor[];
  /** Size of the whole file in bytes. */
  readonly size: number;
}

/** Where every byte of a GGUF model goes. */
export interface GgufLayout {
  readonly alignment: number;
  readonly parts: readonly GgufPartLayout[];
  /** Tensors of all parts, in the order given. */
  readonly tensors: readonly GgufTensor[];
  /** Size of all parts in bytes. */
  readonly size: number;
}

function checkName(name: string, maximum: number, what: string): void {
  const { length } = encodeUtf8(name, what);
  if (length === 0 || length > maximum || name.includes("\0")) {
    throw new GgufError(
      "gguf-name",
      `${what} ${shown(name)} has ${length} bytes, expected 1 to ${maximum}, none of them NUL.`,
    );
  }
}

function collectMetadata(plan: GgufPlan): Map<string, GgufValue> {
  const metadata = new Map<string, GgufValue>();
  for (const [key, value] of plan.metadata) {
    checkName(key, MAX_KEY_BYTES, "Metadata key");
    if (metadata.has(key)) throw new GgufError("gguf-name", `Metadata key ${shown(key)} is given twice.`);
    if (key === SPLIT_NO || key === SPLIT_COUNT || key === SPLIT_TENSORS) {
      throw new GgufError("gguf-name", `Metadata key ${key} is given, but is the writer's own to set.`);
    }
    metadata.set(key, value);
  }
  return metadata;
}

/** Settles the alignment, and sees to it that the metadata says so. */
function settleAlignment(metadata: Map<string, GgufValue>, wanted: number | undefined): number {
  const entry = metadata.get(ALIGNMENT_KEY);
  const stated = entry?.type === "u32" ? entry.value : undefined;
  const alignment = wanted ?? stated ?? DEFAULT_ALIGNMENT;
  if (entry !== undefined && stated !== alignment) {
    throw new GgufError("gguf-alignment", `${ALIGNMENT_KEY} in the metadata is not the u32 ${alignment}.`);
  }
  if (
    !Number.isInteger(alignment) ||
    alignment < 8 ||
    alignment > 2 ** 31 ||
    !Number.isInteger(Math.log2(alignment))
  ) {
    throw new GgufError(
      "gguf-alignment",
      `The alignment is ${alignment}, expected a power of two from 8 on.`,
    );
  }
  if (entry === undefined && alignment !== DEFAULT_ALIGNMENT)
    metadata.set(ALIGNMENT_KEY, gguf.u32(alignment));
  return alignment;
}

/** A tensor with its size, before it has a place. */
type SizedTensor = GgufTensorPlan & Pick<GgufTensor, "byteLength">;

function measureTensors(tensors: readonly GgufTensorPlan[]): SizedTensor[] {
  const names = new Set<string>();
  return tensors.map(({ name, type, ne }) => {
    checkName(name, MAX_TENSOR_NAME_BYTES, "Tensor name");
    if (names.has(name)) throw new GgufError("gguf-name", `Tensor ${shown(name)} is given twice.`);
    names.add(name);
    if (ne.length > MAX_DIMENSIONS) {
      throw new GgufError(
        "gguf-tensor-shape",
        `Tensor ${shown(name)} has ${ne.length} dimensions, expected 1 to ${MAX_DIMENSIONS}.`,
      );
    }
    return { name, type, ne: [...ne], byteLength: tensorBytes(type, ne, `Tensor ${shown(name)}`) };
  });
}

/**
 * Cuts the list of tensors into parts by llama.cpp's rule (tools/gguf-split): a tensor that would pass
 * a bound opens the next part. Where that tool gives up because the very first tensor is too large,
 * this puts it into a part of its own, as it does with any later one.
 */
function group(tensors: SizedTensor[], alignment: number, split: GgufPlan["split"]): SizedTensor[][] {
  const { maxBytes = Infinity, maxTensors = Infinity, counts } = split ?? {};
  if (counts !== undefined) return groupByCount(tensors, counts);
  if (!(maxBytes > 0) || !(maxTensors >= 1)) {
    throw new GgufError(
      "gguf-split",
      `Parts of ${maxBytes} bytes and ${maxTensors} tensors are asked for, expected at least 1 of each.`,
      { exitCode: 2 },
    );
  }
  let part: SizedTensor[] = [];
  let bytes = 0;
  const parts = [part];
  for (const tensor of tensors) {
    const padded = padTo(tensor.byteLength, alignment);
    if (part.length > 0 && (part.length >= maxTensors || bytes + padded > maxBytes)) {
      part = [];
      bytes = 0;
      parts.push(part);
    }
    part.push(tensor);
    bytes += padded;
  }
  return parts;
}

function groupByCount(tensors: SizedTensor[], counts: readonly number[]): SizedTensor[][] {
  const total = counts.reduce((sum, count) => sum + count, 0);
  if (total !== tensors.length || counts.some((count) => !Number.isSafeInteger(count) || count < 1)) {
    throw new GgufError(
      "gguf-split",
      `Parts of ${counts.join(", ")} tensors are asked for, expected ${tensors.length} in all.`,
    );
  }
  let at = 0;
  return counts.map((count) => tensors.slice(at, (at += count)));
}

/** Metadata of part `index`: everything in the first one, only what ties the parts together in the others. */
function partMetadata(
  metadata: Map<string, GgufValue>,
  index: number,
  count: number,
  tensors: number,
): Map<string, GgufValue> {
  if (count === 1) return metadata;
  const entries = new Map(index === 0 ? metadata : []);
  const alignment = metadata.get(ALIGNMENT_KEY);
  if (alignment) entries.set(ALIGNMENT_KEY, alignment);
  // In the order in which gguf-split leaves them.
  entries.set(SPLIT_NO, gguf.u16(index));
  entries.set(SPLIT_TENSORS, gguf.i32(tensors));
  entries.set(SPLIT_COUNT, gguf.u16(count));
  return entries;
}

function layPart(
  tensors: readonly SizedTensor[],
  part: number,
  metadata: Map<string, GgufValue>,
  alignment: number,
): GgufPartLayout {
  const infos: TensorInfo[] = [];
  let data = 0;
  for (const { name, type, ne, byteLength } of tensors) {
    infos.push({ name, type, ne, offset: data });
    data = padTo(data + byteLength, alignment);
  }
  const header = encodeHeader(metadata, infos, alignment);
  const size = header.length + data;
  if (!Number.isSafeInteger(size)) {
    throw new GgufError("gguf-limit", `Part ${part + 1} would have ${size} bytes, more than 2^53.`);
  }
  return {
    header,
    size,
    tensors: tensors.map((tensor, index) => ({
      ...tensor,
      part,
      offset: header.length + infos[index]!.offset,
    })),
  };
}

/**
 * Lays out a GGUF model: header bytes, the place of every tensor and the size of every file are known
 * before a byte is written. Tensors keep the order given.
 *
 * With `split`, a model that fits in one part is written as an ordinary single file.
 * @throws GgufError when a name, value, type, shape or bound is not one that the format (or its
 *   readers) can take
 */
export function planGguf(plan: GgufPlan): GgufLayout {
  const metadata = collectMetadata(plan);
  const alignment = settleAlignment(metadata, plan.alignment);
  const tensors = measureTensors(plan.tensors);
  const groups = group(tensors, alignment, plan.split);
  // Three split keys come on top.
  if (metadata.size > MAX_METADATA_KEYS - 3 || tensors.length > MAX_TENSORS || groups.length > MAX_PARTS) {
    throw new GgufError(
      "gguf-limit",
      `${metadata.size} metadata keys, ${tensors.length} tensors and ${groups.length} parts are asked for, ` +
        `at most ${MAX_METADATA_KEYS - 3}, ${MAX_TENSORS} and ${MAX_PARTS} can be written.`,
    );
  }
  const parts = groups.map((members, index) =>
    layPart(members, index, partMetadata(metadata, index, groups.length, tensors.length), alignment),
  );
  return {
    alignment,
    parts,
    tensors: parts.flatMap((part) => part.tensors),
    size: parts.reduce((sum, part) => sum + part.size, 0),
  };
}
