import { shown } from "../../errors.js";
import type { Scope } from "../scopes.js";
import { ATTRIBUTE_TYPES, type AttributeProto, type NodeProto } from "../types.js";
import { type Findings, nodeLabel } from "./findings.js";

type ValueField = Exclude<keyof AttributeProto, "name" | "type" | "refAttrName" | "docString">;

/** The field that each type of an attribute uses. */
const FIELD_OF: ReadonlyMap<number, ValueField> = new Map([
  [ATTRIBUTE_TYPES.FLOAT, "f"],
  [ATTRIBUTE_TYPES.INT, "i"],
  [ATTRIBUTE_TYPES.STRING, "s"],
  [ATTRIBUTE_TYPES.TENSOR, "t"],
  [ATTRIBUTE_TYPES.GRAPH, "g"],
  [ATTRIBUTE_TYPES.FLOATS, "floats"],
  [ATTRIBUTE_TYPES.INTS, "ints"],
  [ATTRIBUTE_TYPES.STRINGS, "strings"],
  [ATTRIBUTE_TYPES.TENSORS, "tensors"],
  [ATTRIBUTE_TYPES.GRAPHS, "graphs"],
  [ATTRIBUTE_TYPES.SPARSE_TENSOR, "sparseTensor"],
  [ATTRIBUTE_TYPES.SPARSE_TENSORS, "sparseTensors"],
  [ATTRIBUTE_TYPES.TYPE_PROTO, "tp"],
  [ATTRIBUTE_TYPES.TYPE_PROTOS, "typeProtos"],
]);

const FIELDS = [...FIELD_OF.values()];

/** Messages, which have no value that could be meant when the field is left out, as 0 or an empty list is. */
const NEEDED: ReadonlySet<ValueField | undefined> = new Set<ValueField>(["t", "g", "sparseTensor", "tp"]);

function isSet(attribute: AttributeProto, field: ValueField): boolean {
  const value = attribute[field];
  return Array.isArray(value) ? value.length > 0 : value !== undefined;
}

/** What is wrong with an attribute by itself, if anything. */
function attributeProblem(attribute: AttributeProto): string | undefined {
  const { type, refAttrName = "" } = attribute;
  const field = FIELD_OF.get(type);
  if (field === undefined) return `has the type ${type}, which ONNX does not name`;
  const set = FIELDS.filter((each) => isSet(attribute, each));
  if (refAttrName !== "") {
    return set.length === 0
      ? undefined
      : `refers to ${shown(refAttrName)} and has a value in ${set.join(", ")}`;
  }
  if (set.some((each) => each !== field))
    return `has a value in ${set.join(", ")}, expected ${field} by its type`;
  return NEEDED.has(field) && set.length === 0 ? `has no value in ${field}, as its type says` : undefined;
}

function lintAttributes({ attribute }: NodeProto, label: string, findings: Findings): void {
  const names = new Set<string>();
  for (const each of attribute) {
    const problem = attributeProblem(each);
    if (problem !== undefined)
      findings.add("attribute-type", label, `Attribute ${shown(each.name)} ${problem}.`);
    if (names.has(each.name)) {
      findings.add("attribute-twice", label, `Attribute ${shown(each.name)} is given twice.`);
    }
    names.add(each.name);
  }
}

/** Whether a scope around this one has defined the name before the node that this scope is part of. */
function seenOutside(scope: Scope, name: string): boolean {
  for (let { outer } = scope; outer !== null; { outer } = outer.scope) {
    const found = outer.scope.own(name);
    if (found !== undefined && (found.kind !== "node" || found.index < outer.index)) return true;
  }
  return false;
}

function lintInputs(scope: Scope, index: number, label: string, findings: Findings): void {
  const { opType, input } = scope.nodes[index]!;
  for (const name of input) {
    if (name === "") continue;
    const own = scope.own(name);
    if (own === undefined ? seenOutside(scope, name) : own.kind !== "node" || own.index < index) continue;
    if (own === undefined && scope.find(name) === undefined) {
      findings.add(
        "undefined-value",
        label,
        `${shown(opType)} takes ${shown(name)}, which nothing produces.`,
      );
    } else {
      findings.add(
        "node-order",
        label,
        `${shown(opType)} takes ${shown(name)}, which no earlier node produces.`,
      );
    }
  }
}

/**
 * Names of a scope are each given by an input, an initializer or one output of a node, before they are used;
 * attributes hold what their types say.
 */
export function lintStructure(scope: Scope, findings: Findings): void {
  const given = new Set<string>();
  const twice = (name: string, label: string | null): void =>
    findings.add("value-twice", label, `The value ${shown(name)} is defined twice.`);
  for (const name of scope.inputs) {
    if (given.has(name)) twice(name, null);
    given.add(name);
  }
  const names = new Set<string>();
  for (const [index, node] of scope.nodes.entries()) {
    const label = nodeLabel(scope, index);
    const { name = "", output } = node;
    if (name !== "" && names.has(name)) {
      findings.add("node-name", label, `Another node of the graph has the name ${shown(name)} too.`);
    }
    names.add(name);
    lintAttributes(node, label, findings);
    lintInputs(scope, index, label, findings);
    for (const value of output) {
      if (value === "") continue;
      // A branch may use the names of another branch, but none that the graph around it has given.
      const clash = given.has(value) || scope.own(value)?.kind === "initializer" || seenOutside(scope, value);
      if (clash) twice(value, label);
      given.add(value);
    }
  }
  for (const name of scope.outputs) {
    if (scope.own(name) !== undefined) continue;
    const what = scope.find(name) === undefined ? "nothing produces" : "only the graph around it has";
    findings.add("undefined-value", null, `${scope.path} has the output ${shown(name)}, which ${what}.`);
  }
}
