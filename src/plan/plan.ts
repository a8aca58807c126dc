import { createHash } from "node:crypto";
import { rowBytes } from "../blocks/table.js";
import type { BlockTypeName } from "../blocks/types.js";
import { Kernels } from "../blocks/kernels/kernels.js";
import { assignTypes, type TensorType } from "./assign.js";
import { converterTypes } from "./converter.js";
import { PlanError } from "./errors.js";
import { availableMixes, findMix, type Mix, type ModelFacts } from "./mixes.js";

/** Values that lie in a file. */
export interface FileOrigin {
  readonly kind: "file";
  /** Name of the tensor in that file. */
  readonly name: string;
  readonly path: string;
  /** Byte offset from the start of the file. */
  readonly offset: number;
  readonly byteLength: number;
  readonly type: BlockTypeName;
}

/** Values that come from the config: a short vector, kept in memory. */
export interface GeneratedOrigin {
  readonly kind: "generated";
  /** F32, little-endian. */
  readonly data: Uint8Array;
}

/** A tensor of the model to be written, before it has a type. */
export interface ModelTensor {
  /** Name in GGUF. */
  readonly name: string;
  /** Dimensions in ggml's order: fastest first. */
  readonly ne: readonly number[];
  readonly origin: FileOrigin | GeneratedOrigin;
}

export interface PlannedTensor extends ModelTensor {
  readonly type: BlockTypeName;
  /** Number of values. */
  readonly values: number;
  /** Bytes in the output, without padding. */
  readonly byteLength: number;
}

/** How many tensors and bytes a type takes. */
export interface TypeShare {
  readonly type: BlockTypeName;
  readonly tensors: number;
  readonly bytes: number;
}

/** What will be written, to the byte, before any work is done. */
export interface Plan {
  readonly mix: string;
  /** Whose rules chose the types. */
  readonly rules: "llama-quantize" | "converter";
  /** `general.file_type`. */
  readonly fileType: number;
  /** In output order. */
  readonly tensors: readonly PlannedTensor[];
  /** Values of all tensors. */
  readonly values: number;
  /** Bytes of all tensors without header and padding. */
  readonly byteLength: number;
  readonly bitsPerWeight: number;
  /** Most bytes first. */
  readonly shares: readonly TypeShare[];
  /** SHA-256 over everything that decides the bytes of the tensors; equal plans have equal hashes. */
  readonly hash: string;
}

/** What the user chooses. */
export interface PlanOptions {
  /** Name of a mix, in any case. */
  readonly mix: string;
  /** Whether the types are those of llama.cpp's checkpoint converter rather than of llama-quantize. */
  readonly matchConverter?: boolean;
  /** Types for single tensors, in front of llama-quantize's rules; the first pattern that matches wins. */
  readonly tensorTypes?: readonly TensorType[];
}

/** A mix applied to tensors. */
export interface PlanRequest extends PlanOptions {
  /** In the order in which they shall be written. */
  readonly tensors: readonly ModelTensor[];
  readonly facts: ModelFacts;
  /** Type that a tensor keeps where llama-quantize does not touch it. */
  readonly kept: (tensor: ModelTensor, mix: Mix) => BlockTypeName;
}

/**
 * Gives every tensor a type and counts the bytes.
 *
 * @throws PlanError `unknown-mix`, `not-a-converter-mix`, `overrides-need-quantizing`, `bad-pattern`,
 * `pattern-finds-nothing`, `importance-required`, `row-does-not-fit`, `no-encoder`, `unsupported-source`
 */
export function makePlan(request: PlanRequest): Plan {
  const mix = findMix(request.mix, canWrite);
  const candidates = request.tensors.map((tensor) => ({
    name: tensor.name,
    ne: tensor.ne,
    kept: request.kept(tensor, mix),
  }));
  const types = request.matchConverter
    ? matchConverter(candidates, mix, request)
    : assignTypes(candidates, mix, request.facts, request.tensorTypes);
  const tensors = request.tensors.map((tensor, index) => planned(tensor, types[index] ?? mix.type));
  checkEncoders(tensors, mix, request.facts);
  const values = tensors.reduce((sum, tensor) => sum + tensor.values, 0);
  const byteLength = tensors.reduce((sum, tensor) => sum + tensor.byteLength, 0);
  const rules = request.matchConverter ? "converter" : "llama-quantize";
  return {
    mix: mix.name,
    rules,
    fileType: mix.fileType,
    tensors,
    values,
    byteLength,
    bitsPerWeight: (byteLength * 8) / values,
    shares: sharesOf(tensors),
    hash: hashOf(mix.fileType, tensors),
  };
}

/** Whether F32, F16 and BF16 values, of which every source consists, can all be written as a type. */
function canWrite(type: BlockTypeName): boolean {
  return SOURCE_TYPES.every((source) => Kernels.supports(source, type));
}

const SOURCE_TYPES: readonly BlockTypeName[] = ["F32", "F16", "BF16"];

function matchConverter(
  candidates: Parameters<typeof converterTypes>[0],
  mix: Mix,
  request: PlanRequest,
): readonly BlockTypeName[] {
  if (request.tensorTypes !== undefined && request.tensorTypes.length > 0) {
    throw new PlanError(
      "overrides-need-quantizing",
      "types for single tensors cannot be combined with matching llama.cpp's converter, which has none",
      { exitCode: 2 },
    );
  }
  return converterTypes(candidates, mix);
}

function planned(tensor: ModelTensor, type: BlockTypeName): PlannedTensor {
  const values = tensor.ne.reduce((product, size) => product * size, 1);
  return { ...tensor, type, values, byteLength: rowBytes(type, values) };
}

function checkEncoders(tensors: readonly PlannedTensor[], mix: Mix, facts: ModelFacts): void {
  for (const { name, origin, type } of tensors) {
    const source = origin.kind === "file" ? origin.type : "F32";
    if (!SOURCE_TYPES.includes(source)) {
      throw new PlanError(
        "unsupported-source",
        `tensor ${name} is stored as ${source}, expected one of ${SOURCE_TYPES.join(", ")}`,
        { advice: "Start from the original checkpoint, or from a GGUF file in BF16, F16 or F32." },
      );
    }
    if (source !== type && !Kernels.supports(source, type)) {
      throw new PlanError(
        "no-encoder",
        `${mix.name} puts ${type} on tensor ${name}, which cannot be written yet`,
        {
          exitCode: 2,
          advice: `Choose one of ${availableMixes(canWrite, facts.importance).join(", ")}.`,
        },
      );
    }
  }
}

function sharesOf(tensors: readonly PlannedTensor[]): readonly TypeShare[] {
  const shares = new Map<BlockTypeName, { tensors: number; bytes: number }>();
  for (const { type, byteLength } of tensors) {
    const share = shares.get(type) ?? { tensors: 0, bytes: 0 };
    shares.set(type, { tensors: share.tensors + 1, bytes: share.bytes + byteLength });
  }
  return [...shares].map(([type, share]) => ({ type, ...share })).toSorted((a, b) => b.bytes - a.bytes);
}

/**
 * Canonical text: arrays only, so that no order of keys matters. Paths are left out, since a journal
 * compares the files themselves; offsets are in, since they say which bytes are read.
 */
function hashOf(fileType: number, tensors: readonly PlannedTensor[]): string {
  const rows = tensors.map(({ name, ne, type, origin }) =>
    origin.kind === "file"
      ? [name, ne, type, "file", origin.name, origin.type, origin.offset, origin.byteLength]
      : [name, ne, type, "generated", Buffer.from(origin.data).toString("hex")],
  );
  return createHash("sha256")
    .update(JSON.stringify(["lapidary-plan", 1, fileType, rows]))
    .digest("hex");
}
