import { basename } from "node:path";
import { writeFileAtomic } from "../base/atomic-file.js";
import { PipelineError } from "./errors.js";
import { PLAN_KEYS, type PlanFile, type PlanLine, planSchema } from "./plan-schema.js";
import { parseYaml, readYaml, type YamlForm } from "./yaml.js";

/** A plan and the file that it comes from. */
export interface OpenPlan {
  readonly path: string;
  readonly plan: PlanFile;
}

const FORM: YamlForm<PlanFile> = { noun: "plan", schema: planSchema, minimum: "plan: 1 and weights:", keys };

function keys([first, , third]: readonly PropertyKey[]): readonly string[] {
  if (first === undefined) return PLAN_KEYS.root;
  if (first === "gguf" || first === "onnx") return PLAN_KEYS[first];
  if (third === undefined) return PLAN_KEYS.weight;
  return third === "gguf" ? PLAN_KEYS.typed : PLAN_KEYS.coded;
}

/**
 * Reads a plan. Whether its weights are those of a model is not looked at.
 *
 * @throws PipelineError `no-plan` when the file cannot be read, `bad-plan` when it is no plan
 */
export async function readPlan(path: string): Promise<OpenPlan> {
  return { path, plan: await readYaml(path, FORM) };
}

/**
 * The plan in a text.
 *
 * @param path of the file that it comes from, for messages
 * @throws PipelineError `bad-plan`
 */
export function parsePlan(text: string, path: string): OpenPlan {
  return { path, plan: parseYaml(text, path, FORM) };
}

/** The name that files get by a plan: its own, or that of its file. */
export function planName({ path, plan }: OpenPlan): string {
  const stem = basename(path)
    .replace(/\.ya?ml$/i, "")
    .replaceAll(/[^A-Za-z0-9._-]/g, "-");
  return plan.name ?? (stem === "" ? "plan" : stem);
}

/**
 * What a request for GGUF takes from a plan: the mix that marks the file, its name, and the plan itself. Patterns of the
 * request stand in front of it.
 *
 * @throws PipelineError `no-column` for a plan that has none for GGUF
 */
export function withPlanFile<T extends object>(
  open: OpenPlan,
  options: T,
): T & { readonly types: readonly string[]; readonly name: string; readonly plan: OpenPlan } {
  if (open.plan.gguf === undefined) throw noColumn(open.path, "gguf");
  return { ...options, types: [open.plan.gguf.mix], name: planName(open), plan: open };
}

/** The error for a plan that says nothing about a format. */
export function noColumn(path: string, column: "gguf" | "onnx"): PipelineError {
  const key = column === "gguf" ? "mix" : "dtype";
  return new PipelineError(
    "no-column",
    `${path}: the plan has nothing for ${column}: the key ${column}: with a ${key} is missing.`,
    { exitCode: 2, advice: `Make the plan with --to ${column}, or give another one.` },
  );
}

/** A plan as text: JSON on each line below the keys, which is YAML too. */
export function formatPlan({ weights, ...head }: PlanFile): string {
  const lines = Object.entries(head)
    .filter(([, value]) => value !== undefined)
    .map(([key, value]) => (Array.isArray(value) ? listOf(key, value) : `${key}: ${inline(value)}\n`));
  const width = Math.max(0, ...Object.keys(weights).map((name) => name.length));
  const rows = Object.entries(weights).map(
    ([name, line]) => `  ${`${name}:`.padEnd(width + 2)}${lineOf(line)}\n`,
  );
  return `${lines.join("")}weights:${rows.length === 0 ? " {}\n" : `\n${rows.join("")}`}`;
}

function listOf(key: string, values: readonly unknown[]): string {
  return `${key}:\n${values.map((value) => `  - ${inline(value)}\n`).join("")}`;
}

/** The second column starts at the same place in each line. */
function lineOf({ gguf, onnx }: PlanLine): string {
  const columns = [
    ...(gguf === undefined ? [] : [`gguf: ${inline(gguf)}`]),
    ...(onnx === undefined ? [] : [`onnx: ${inline(onnx)}`]),
  ];
  return `{ ${columns.join(", ")} }`;
}

function inline(value: unknown): string {
  if (Array.isArray(value)) return `[${value.map((each) => inline(each)).join(", ")}]`;
  if (typeof value !== "object" || value === null) {
    // Words of letters need no quotes, unless YAML takes them for something else.
    const plain = typeof value === "string" && /^[A-Za-z_][\w.-]*$/.test(value);
    return plain && !/^(?:true|false|null|yes|no|on|off)$/i.test(value) ? value : JSON.stringify(value);
  }
  const fields = Object.entries(value).filter(([, field]) => field !== undefined);
  return `{ ${fields.map(([key, field]) => `${key}: ${inline(field)}`).join(", ")} }`;
}

/**
 * Writes a plan, whole or not at all.
 *
 * @throws OutputError
 */
export async function writePlan(path: string, plan: PlanFile): Promise<void> {
  await writeFileAtomic(path, formatPlan(plan));
}
