import { formatSize } from "../base/sizes.js";
import type { Inspected, InspectedCheckpoint, InspectedGguf, InspectedValue } from "../pipeline/inspect.js";
import { renderOnnx } from "./onnx-inspection.js";
import { renderTable } from "./table.js";

/** Characters of a value that a line shows; chat templates have 12,000. */
const SHOWN_CHARACTERS = 72;

function shorten(text: string): string {
  const line = text.replaceAll("\n", "⏎");
  return line.length <= SHOWN_CHARACTERS ? line : `${line.slice(0, SHOWN_CHARACTERS - 1)}…`;
}

function valueText(value: InspectedValue): string {
  if (!("first" in value)) return shorten(String(value.value));
  const more = value.length > value.first.length ? ", …" : "";
  return shorten(`${value.length} × [${value.first.join(", ")}${more}]`);
}

function facts(found: InspectedCheckpoint | InspectedGguf): (readonly [string, string])[] {
  const size = `${found.values.toLocaleString("en-US")} values, ${formatSize(found.bytes)}, ${found.bitsPerWeight.toFixed(3)} bits/weight`;
  const files = found.files
    .map(({ file, bytes }) => `${file} (${bytes.toLocaleString("en-US")} bytes)`)
    .join("\n");
  if (found.kind === "gguf") {
    return [
      ["format", `GGUF v${found.version}, alignment ${found.alignment}`],
      ["files", files],
      ["tensors", `${found.tensors.length}: ${size}`],
    ];
  }
  const { layers, experts, towers } = found;
  const sharing = layers.sharingKv === 0 ? "" : `, the last ${layers.sharingKv} share keys and values`;
  return [
    ["model", `Gemma 4 ${found.member}`],
    ["files", files],
    ["tensors", `${found.tensors.length}: ${size}`],
    [
      "layers",
      `${layers.sliding + layers.full}: ${layers.sliding} sliding (window ${found.slidingWindow}), ${layers.full} full${sharing}`,
    ],
    ["hidden size", String(found.hidden)],
    ["vocabulary", found.vocabulary.toLocaleString("en-US")],
    ["context", found.contextLength.toLocaleString("en-US")],
    ["per-layer embeddings", found.perLayerWidth === 0 ? "none" : `${found.perLayerWidth} a layer`],
    ["experts", experts === null ? "none" : `${experts.count}, ${experts.used} at a time`],
    [
      "vision and audio",
      towers.tensors === 0 ? "none" : `${towers.tensors} tensors, ${formatSize(towers.bytes)}`,
    ],
    [
      "unused keys and values",
      found.unusedKvValues === 0 ? "none" : `${found.unusedKvValues.toLocaleString("en-US")} values`,
    ],
  ];
}

/** Tables of facts, metadata, types and, if wanted, tensors. */
export async function renderInspection(found: Inspected, tensors: boolean): Promise<string> {
  if (found.kind === "onnx") return renderOnnx(found, tensors);
  const parts = [found.path, await renderTable(["", ""], facts(found))];
  if (found.kind === "gguf") {
    const rows = Object.entries(found.metadata).map(([key, value]) => [key, value.type, valueText(value)]);
    parts.push(await renderTable(["metadata", "type", "value"], rows));
  }
  const types = found.types.map(({ type, tensors, values, bytes }) => [
    type,
    String(tensors),
    values.toLocaleString("en-US"),
    bytes.toLocaleString("en-US"),
    `${((100 * bytes) / found.bytes).toFixed(1)} %`,
  ]);
  parts.push(await renderTable(["type", ">tensors", ">values", ">bytes", ">share"], types));
  if (tensors) {
    const order = found.kind === "gguf" ? "shape (fastest first)" : "shape";
    const rows = found.tensors.map(({ name, type, shape, bytes }) => [
      name,
      type,
      shape.join(" × "),
      bytes.toLocaleString("en-US"),
    ]);
    parts.push(await renderTable(["tensor", "type", order, ">bytes"], rows));
  }
  return parts.join("\n\n");
}
