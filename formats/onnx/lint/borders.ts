import { shown } from "../../errors.js";
import { elementTypeById, type ElementTypeName } from "../element-types.js";
import type { Dimension, GraphProto, ValueInfoProto } from "../types.js";
import type { Findings } from "./findings.js";

/** Element types that the Node binding of ONNX Runtime 1.30 has no array for. */
const NO_ARRAY: ReadonlySet<ElementTypeName | undefined> = new Set<ElementTypeName>([
  "BFLOAT16",
  "FLOAT8E4M3FN",
  "FLOAT8E4M3FNUZ",
  "FLOAT8E5M2",
  "FLOAT8E5M2FNUZ",
  "FLOAT8E8M0",
  "FLOAT4E2M1",
  "UINT2",
  "INT2",
]);

const CACHE = /^past_key_values\.(0|[1-9]\d{0,5})\.(key|value)$/;

function lintTypes(values: readonly ValueInfoProto[], what: string, findings: Findings): void {
  for (const { name, type } of values) {
    const element = elementTypeById(type?.tensorType?.elemType ?? 0)?.name;
    if (NO_ARRAY.has(element)) {
      findings.add("border-type", null, `The ${what} ${shown(name)} is ${element}, which cannot be passed.`);
    }
  }
}

function isNumber(dimension: Dimension | undefined): boolean {
  return (dimension?.dimValue ?? 0) > 0;
}

function lintCache({ name, type }: ValueInfoProto, findings: Findings): void {
  const dim = type?.tensorType?.shape?.dim ?? [];
  if (dim.length !== 4) {
    findings.add("cache-shape", null, `The cache ${shown(name)} has ${dim.length} dimensions, expected 4.`);
  } else if (!isNumber(dim[1]) || !isNumber(dim[3])) {
    const which = isNumber(dim[1]) ? "head size" : "number of heads";
    findings.add("cache-shape", null, `The cache ${shown(name)} has no number as its ${which}.`);
  }
}

/** Caches go in and out under the names, and with the shapes, that transformers.js and onnxruntime-genai look for. */
function lintCaches({ input, output }: GraphProto, findings: Findings): void {
  const outputs = new Set(output.map(({ name }) => name));
  const layers = new Map<number, Set<string>>();
  for (const value of input) {
    if (!value.name.startsWith("past_key_values")) continue;
    const match = CACHE.exec(value.name);
    if (match === null) {
      findings.add("cache-name", null, `The cache ${shown(value.name)} has a name that nothing looks for.`);
      continue;
    }
    const [, layer = "", part = ""] = match;
    const parts = layers.get(Number(layer)) ?? new Set();
    layers.set(Number(layer), parts.add(part));
    lintCache(value, findings);
    const present = `present.${layer}.${part}`;
    if (!outputs.has(present)) {
      findings.add("cache-present", null, `The cache ${shown(value.name)} has no output ${present}.`);
    }
  }
  const numbers = [...layers.keys()].toSorted((a, b) => a - b);
  const gap = numbers.findIndex((number, index) => number !== index);
  if (gap >= 0) {
    findings.add(
      "cache-gap",
      null,
      `The cache of layer ${gap} is missing, that of layer ${numbers[gap]} is there.`,
    );
  }
  for (const [layer, parts] of layers) {
    if (parts.size === 2) continue;
    const missing = parts.has("key") ? "value" : "key";
    findings.add("cache-pair", null, `The cache of layer ${layer} has no ${missing}.`);
  }
}

/** What goes into the graph of the model and what comes out. */
export function lintBorders(graph: GraphProto, findings: Findings): void {
  lintTypes(graph.input, "input", findings);
  lintTypes(graph.output, "output", findings);
  lintCaches(graph, findings);
}
