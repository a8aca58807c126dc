import { formatSize } from "../base/sizes.js";
import type { InspectedGraph, InspectedOnnx, InspectedOnnxValue } from "../pipeline/inspect-onnx.js";
import { countFindings, renderFindings } from "./findings.js";
import { renderTable } from "./table.js";

/** Operators that a line shows; a decoder has 40. */
const SHOWN_OPERATORS = 12;

/** Inputs or outputs that a table shows; a decoder has two caches a layer, all alike. */
const SHOWN_VALUES = 12;

/** Data files that are listed; where every tensor has its own there are a thousand. */
const SHOWN_FILES = 12;

function shapeText({ shape }: Pick<InspectedOnnxValue, "shape">): string {
  return shape === null ? "unknown" : `[${shape.map((size) => size ?? "?").join(", ")}]`;
}

function filesText({ file, fileBytes, dataFiles }: InspectedGraph): string {
  const lines = [{ file, bytes: fileBytes }, ...dataFiles]
    .slice(0, SHOWN_FILES)
    .map(({ file, bytes }) => `${file} (${bytes.toLocaleString("en-US")} bytes)`);
  const rest = dataFiles.length + 1 - lines.length;
  if (rest > 0) lines.push(`and ${rest} more`);
  return lines.join("\n");
}

function operatorsText({ operators }: InspectedGraph): string {
  const shown = operators.slice(0, SHOWN_OPERATORS).map(({ operator, nodes }) => `${nodes} ${operator}`);
  const rest = operators.length - shown.length;
  if (rest > 0) shown.push(`and ${rest} more kinds`);
  return shown.join("\n");
}

function facts(graph: InspectedGraph): (readonly [string, string])[] {
  const { opset, irVersion, domains, producer, nodes, subgraphs, accuracyLevels, findings } = graph;
  const others = domains.map(({ domain, version }) => `, ${domain} ${version}`).join("");
  const inner = `${subgraphs} inner ${subgraphs === 1 ? "graph" : "graphs"}`;
  const inside = subgraphs === 0 ? "" : `, those of ${inner} included`;
  const rows: (readonly [string, string])[] = [
    ["files", filesText(graph)],
    ["format", `opset ${opset}${others}, IR ${irVersion}`],
    ["producer", producer === null ? "unknown" : `${producer.name} ${producer.version}`.trim()],
    ["nodes", `${nodes}${inside}`],
    ["operators", operatorsText(graph)],
    [
      "weights",
      `${graph.values.toLocaleString("en-US")} values, ${formatSize(graph.bytes)}, ${graph.bitsPerWeight.toFixed(3)} bits/weight`,
    ],
  ];
  if (accuracyLevels.length > 0) {
    const levels = accuracyLevels.map(({ level, nodes }) => `${level} (${nodes} nodes)`);
    rows.push(["accuracy level", levels.join(", ")]);
  }
  rows.push(["findings", countFindings(findings)]);
  return rows;
}

async function renderValues(title: string, values: readonly InspectedOnnxValue[]): Promise<string> {
  const rows = values.slice(0, SHOWN_VALUES).map((value) => [value.name, value.type, shapeText(value)]);
  const rest = values.length - rows.length;
  if (rest > 0) rows.push([`and ${rest} more`, "", ""]);
  return renderTable([title, "type", "shape"], rows);
}

async function renderStorage({ storage }: InspectedGraph): Promise<string> {
  const total = storage.reduce((sum, { bytes }) => sum + bytes, 0);
  const rows = storage.map(({ storage, tensors, values, bytes, bitsPerWeight }) => [
    storage,
    String(tensors),
    values.toLocaleString("en-US"),
    bytes.toLocaleString("en-US"),
    bitsPerWeight.toFixed(3),
    total === 0 ? "" : `${((100 * bytes) / total).toFixed(1)} %`,
  ]);
  return renderTable(["storage", ">tensors", ">values", ">bytes", ">bits/value", ">share"], rows);
}

async function renderTensors({ tensors }: InspectedGraph): Promise<string> {
  const rows = tensors.map(({ name, path, type, shape, bytes, file }) => [
    name === "" ? path : name,
    type,
    shape.join(" × "),
    bytes.toLocaleString("en-US"),
    file,
  ]);
  return renderTable(["tensor", "type", "shape", ">bytes", "file"], rows);
}

async function renderGraph(graph: InspectedGraph, tensors: boolean): Promise<string[]> {
  const parts = [
    await renderTable(["", ""], facts(graph)),
    await renderValues("input", graph.inputs),
    await renderValues("output", graph.outputs),
    await renderStorage(graph),
  ];
  if (graph.findings.length > 0) parts.push(await renderFindings(graph.findings));
  if (tensors) parts.push(await renderTensors(graph));
  return parts;
}

/** Tables of every graph: facts, inputs, outputs, how weights are stored, findings and, if wanted, tensors. */
export async function renderOnnx({ path, graphs }: InspectedOnnx, tensors: boolean): Promise<string> {
  const parts = [path];
  for (const graph of graphs) parts.push(...(await renderGraph(graph, tensors)));
  return parts.join("\n\n");
}
