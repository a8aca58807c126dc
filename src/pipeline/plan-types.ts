import { blockType, parseBlockType } from "../blocks/table.js";
import type { BoundWeight } from "../gemma4/bind.js";
import { checkpointNameOf, ggufNameOf, headWeight } from "../gemma4/weights.js";
import type { Gemma4Config } from "../gemma4/types.js";
import { mayChange } from "../plan/assign.js";
import { groupOf } from "../plan/onnx/dtypes.js";
import type { TensorTypeName } from "./convert.js";
import { PipelineError } from "./errors.js";
import { noColumn, type OpenPlan } from "./plan-file.js";
import type { PlanLine } from "./plan-schema.js";

/** A tensor that is going to be in a GGUF file. */
interface Tensor {
  /** Name in GGUF. */
  readonly name: string;
  /** Dimensions in ggml's order. */
  readonly ne: readonly number[];
  readonly unused?: boolean;
}

/**
 * The column for GGUF as types of single tensors.
 *
 * @param tensors all of the model
 * @throws PipelineError (exit code 2) `no-column` for a plan or a weight without one, `unknown-weight` for a weight that
 *   the model does not have, `row-does-not-fit` for a type whose blocks do not divide a row
 */
export function ggufTypes(open: OpenPlan, tensors: readonly Tensor[]): TensorTypeName[] {
  const { path, plan } = open;
  if (plan.gguf === undefined) throw noColumn(path, "gguf");
  const own = new Map(tensors.map((tensor) => [tensor.name, tensor]));
  const types = new Map<string, TensorTypeName>();
  for (const [name, { gguf }] of Object.entries(plan.weights)) {
    const tensor = own.get(ggufNameOf(name) ?? "");
    // The output matrix of a tied model is one of its own in ONNX only.
    if (gguf === undefined) continue;
    const where = `${path}: weights.${name}.gguf`;
    if (tensor === undefined) throw unknown(where, name);
    const type = parseBlockType(gguf.type).name;
    checkTensor(tensor, type, where);
    types.set(tensor.name, { pattern: `^${escaped(tensor.name)}$`, type, where });
  }
  const missing = tensors.find(
    (tensor) => mayChange(tensor) && tensor.unused !== true && !types.has(tensor.name),
  );
  if (missing !== undefined)
    throw missingColumn(path, checkpointNameOf(missing.name) ?? missing.name, "gguf");
  return [...types.values()];
}

function checkTensor(tensor: Tensor, type: ReturnType<typeof parseBlockType>["name"], where: string): void {
  const row = tensor.ne[0] ?? 0;
  const { values } = blockType(type);
  if (!mayChange(tensor)) {
    throw new PipelineError(
      "not-rounded",
      `${where}: ${tensor.name} is never rounded in GGUF files, expected no type for it.`,
      { exitCode: 2 },
    );
  }
  if (row % values === 0) return;
  throw new PipelineError(
    "row-does-not-fit",
    `${where}: rows of ${row} values are no whole blocks of ${type}, which packs ${values}.`,
    { exitCode: 2, advice: "Choose a type with smaller blocks." },
  );
}

/**
 * The column for ONNX as types of single matrices.
 *
 * @param weights all of the model
 * @throws PipelineError (exit code 2) `no-column` and `unknown-weight`
 */
export function onnxTypes(
  open: OpenPlan,
  config: Gemma4Config,
  weights: readonly BoundWeight[],
): TensorTypeName[] {
  const { path, plan } = open;
  if (plan.onnx === undefined) throw noColumn(path, "onnx");
  const own = new Map(
    [...weights.map(({ weight }) => weight), headWeight(config)].map((weight) => [weight.name, weight]),
  );
  for (const [name, { onnx }] of Object.entries(plan.weights)) {
    const role = own.get(name)?.role;
    const where = `${path}: weights.${name}.onnx`;
    if (onnx === undefined) continue;
    if (role === undefined) throw unknown(where, name);
    if (groupOf(role) === "exact") {
      throw new PipelineError("not-rounded", `${where}: ${name} is never rounded, expected no type for it.`, {
        exitCode: 2,
      });
    }
  }
  return [...own.values()]
    .filter(({ role, unused }) => groupOf(role) !== "exact" && !unused)
    .map(({ name }) => {
      const onnx = plan.weights[name]?.onnx;
      if (onnx === undefined) throw missingColumn(path, name, "onnx");
      return { pattern: `^${escaped(name)}$`, type: formOf(onnx), where: `${path}: weights.${name}.onnx` };
    });
}

function formOf({ bits, block = 32, zeroPoint = false }: NonNullable<PlanLine["onnx"]>): string {
  return bits > 8 ? `fp${bits}` : `q${bits}${zeroPoint ? "z" : ""}-${block}`;
}

function escaped(name: string): string {
  return name.replaceAll(".", String.raw`\.`);
}

function missingColumn(path: string, name: string, column: "gguf" | "onnx"): PipelineError {
  return new PipelineError("no-column", `${path}: weights.${name}: the column ${column} is missing.`, {
    exitCode: 2,
    advice: `A plan names a type for every matrix of the model; make it with --to ${column}.`,
  });
}

function unknown(where: string, name: string): PipelineError {
  return new PipelineError(
    "unknown-weight",
    `${where}: the model has no weight called ${JSON.stringify(name)}.`,
    {
      exitCode: 2,
      advice: "Give a plan that was made for this model.",
    },
  );
}
