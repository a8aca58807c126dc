import { createHash } from "node:crypto";
import type { ImportanceMatrix } from "../../formats/imatrix/types.js";
import { blockType, rowBytes } from "../blocks/table.js";
import type { BlockTypeName, Method, TensorMethod } from "../blocks/types.js";
import { Kernels } from "../blocks/kernels/kernels.js";
import type { FoldedChannels } from "../gemma4/folds.js";
import { assignTypes, type Overrides, overridesAnything, tensorPattern } from "./assign.js";
import { balanceTensors, factorsHash, type TensorFactors } from "./balance.js";
import { converterTypes } from "./converter.js";
import { PlanError } from "./errors.js";
import { heeds, withImportance } from "./importance.js";
import type { RoundedBytes } from "./rounded.js";
import { findMix, type Mix, type ModelFacts } from "./mixes.js";

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
  /** Nothing reads it: a key or value of a layer that shares those of an earlier one. */
  readonly unused?: boolean;
}

/**
 * How values find their places in a plan: by a method of the kernels, or with feedback of the errors of some values into
 * others (`gptq`), which is done beforehand.
 */
export type PlannedMethod = TensorMethod | "gptq";

export interface PlannedTensor extends ModelTensor {
  readonly type: BlockTypeName;
  /** Number of values. */
  readonly values: number;
  /** Bytes in the output, without padding. */
  readonly byteLength: number;
  /** How its values find their places; `ggml` too where the type knows no search. */
  readonly method: PlannedMethod;
  /** Importance that the method heeds: a value a column, matrix by matrix. */
  readonly importance?: Float32Array<SharedArrayBuffer>;
  /** Where its bytes lie already, for the method `gptq`. */
  readonly rounded?: RoundedBytes;
  /** What its values are multiplied with before they are rounded; the model computes the same with all of them. */
  readonly factors?: TensorFactors;
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
  /** How values find their places in blocks, where the type leaves a choice. */
  readonly method: PlannedMethod;
  /** Path of the importance matrix, or null. */
  readonly importance: string | null;
  /** Tensors whose type heeds an importance and that the matrix does not have. */
  readonly withoutImportance: readonly string[];
  /** Tensors on a lattice that are written as they are, in Q4_0. */
  readonly lattices: readonly string[];
  /** Tensors on a lattice that the mix rounds to fewer bits than that. */
  readonly roundedLattices: readonly string[];
  /** SHA-256 over everything that decides the bytes of the tensors; equal plans have equal hashes. */
  readonly hash: string;
}

/** What the user chooses. */
export interface PlanOptions extends Overrides {
  /** Name of a mix, in any case. */
  readonly mix: string;
  /** Whether the types are those of llama.cpp's checkpoint converter rather than of llama-quantize. */
  readonly matchConverter?: boolean;
  /** Keep keys and values that no layer reads; they count for llama-quantize's rules in any case. */
  readonly keepUnusedKv?: boolean;
  readonly importance?: ImportanceMatrix | undefined;
  /** Names of tensors whose values lie on a lattice that Q4_0 holds. */
  readonly lattices?: ReadonlySet<string> | undefined;
  /** `search` when left out; always `ggml` when the converter is matched. */
  readonly method?: Method | undefined;
}

/** A mix applied to tensors. */
export interface PlanRequest extends PlanOptions {
  /** All of the model, in the order in which they shall be written. */
  readonly tensors: readonly ModelTensor[];
  readonly facts: Omit<ModelFacts, "importance">;
  /** Type that a tensor keeps where llama-quantize does not touch it. */
  readonly kept: (tensor: ModelTensor, mix: Mix) => BlockTypeName;
}

/**
 * Gives every tensor a type and counts the bytes.
 *
 * @throws PlanError `unknown-mix`, `not-a-converter-mix`, `overrides-need-quantizing`, `bad-pattern`,
 * `pattern-finds-nothing`, `row-does-not-fit`, `unsupported-source`, `no-encoder`, `importance-required`, `importance-missing`,
 * `importance-mismatch`
 */
export function makePlan(request: PlanRequest): Plan {
  const mix = findMix(request.mix);
  const candidates = request.tensors.map((tensor) => ({
    name: tensor.name,
    ne: tensor.ne,
    kept: request.kept(tensor, mix),
  }));
  const facts = { ...request.facts, importance: request.importance !== undefined };
  const types = request.matchConverter
    ? matchConverter(candidates, mix, request)
    : assignTypes(candidates, mix, facts, request);
  const method = request.matchConverter ? "ggml" : (request.method ?? "search");
  const all = request.tensors.map((tensor, index) => {
    const type = types[index] ?? mix.type;
    return keepsLattice(tensor, type, request) ? onLattice(tensor) : planned(tensor, type, method);
  });
  const written = request.keepUnusedKv ? all : all.filter(({ unused }) => unused !== true);
  checkTypes(written);
  const tensors = withImportance(written, mix, request.importance);
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
    method,
    importance: request.importance?.path ?? null,
    withoutImportance:
      request.importance === undefined
        ? []
        : tensors
            .filter(({ type, method: own, importance }) => heeds(type, own) && importance === undefined)
            .map(({ name }) => name),
    lattices: tensors.filter((tensor) => tensor.method === "lattice").map(({ name }) => name),
    roundedLattices: tensors
      .filter(
        ({ name, type, method: own }) => own !== "lattice" && request.lattices?.has(name) && isRounded(type),
      )
      .map(({ name }) => name),
    hash: hashOf(mix.fileType, tensors),
  };
}

function isRounded(type: BlockTypeName): boolean {
  return !SOURCE_TYPES.includes(type);
}

/** More bits would hold the same values, and fewer would not; a type that somebody names for a tensor stands. */
function keepsLattice({ name }: ModelTensor, type: BlockTypeName, request: PlanRequest): boolean {
  if (request.lattices?.has(name) !== true || !isRounded(type)) return false;
  if ((request.tensorTypes ?? []).some(({ pattern }) => tensorPattern(pattern).test(name))) return false;
  const { bytes, values } = blockType(type);
  return (bytes * 8) / values >= 4;
}

function onLattice(tensor: ModelTensor): PlannedTensor {
  return { ...planned(tensor, "Q4_0", "ggml"), method: "lattice" };
}

/**
 * The plan with the channels of folds scaled, which changes nothing but the values that are rounded. Its identity
 * is another one only where there is something to scale.
 */
export function balancePlan(plan: Plan, folded: readonly FoldedChannels[]): Plan {
  if (folded.length === 0) return plan;
  const tensors = balanceTensors(plan.tensors, folded, ({ name }) => name);
  return { ...plan, tensors, hash: hashOf(plan.fileType, tensors) };
}

/** What every source consists of. */
const SOURCE_TYPES: readonly BlockTypeName[] = ["F32", "F16", "BF16"];

function matchConverter(
  candidates: Parameters<typeof converterTypes>[0],
  mix: Mix,
  request: PlanRequest,
): readonly BlockTypeName[] {
  if (overridesAnything(request)) {
    throw new PlanError(
      "overrides-need-quantizing",
      "types for single tensors cannot be combined with matching llama.cpp's converter, which has none",
      { exitCode: 2 },
    );
  }
  return converterTypes(candidates, mix);
}

function planned(tensor: ModelTensor, type: BlockTypeName, method: Method): PlannedTensor {
  const values = tensor.ne.reduce((product, size) => product * size, 1);
  const own = Kernels.searches(type) ? method : "ggml";
  return { ...tensor, type, values, byteLength: rowBytes(type, values), method: own };
}

function checkTypes(tensors: readonly PlannedTensor[]): void {
  for (const { name, origin, type } of tensors) {
    const source = origin.kind === "file" ? origin.type : "F32";
    if (SOURCE_TYPES.includes(source)) {
      if (source === type || Kernels.supports(source, type)) continue;
      throw new PlanError("no-encoder", `tensor ${name} is to be ${type}, which is not a type for weights`, {
        exitCode: 2,
        advice: "Choose a block type such as Q4_K, or F32, F16 or BF16.",
      });
    }
    throw new PlanError(
      "unsupported-source",
      `tensor ${name} is stored as ${source}, expected one of ${SOURCE_TYPES.join(", ")}`,
      { advice: "Start from the original checkpoint, or from a GGUF file in BF16, F16 or F32." },
    );
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
  const rows = tensors.map(({ name, ne, type, method, origin, importance, factors }) => {
    const row =
      origin.kind === "file"
        ? [name, ne, type, "file", origin.name, origin.type, origin.offset, origin.byteLength]
        : [name, ne, type, "generated", Buffer.from(origin.data).toString("hex")];
    const scaled = factors === undefined ? [] : [factorsHash(factors)];
    return [...row, method, importance === undefined ? null : hashBytes(importance), ...scaled];
  });
  return hashBytes(JSON.stringify(["lapidary-plan", 2, fileType, rows]));
}

function hashBytes(bytes: string | NodeJS.ArrayBufferView): string {
  return createHash("sha256").update(bytes).digest("hex");
}
