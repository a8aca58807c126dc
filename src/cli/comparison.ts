import { formatSize } from "../base/sizes.js";
import type { ShortValue } from "../pipeline/diff-metadata.js";
import type { DiffedModel, DiffReport, TensorDifference, TensorSide } from "../pipeline/diff.js";
import { renderTable } from "./table.js";

/** What stands in front of a row, so that rows that differ catch the eye, and `grep` finds them. */
const MARKS: Readonly<Record<TensorDifference["state"], string>> = {
  identical: "",
  equal: "",
  different: "≠",
  notFinite: "!",
  otherShape: "!",
  notCompared: "?",
  onlyA: "A",
  onlyB: "B",
};

const WORDS: Readonly<Record<TensorDifference["state"], string>> = {
  identical: "identical",
  equal: "equal values",
  different: "different",
  notFinite: "not finite",
  otherShape: "other shape",
  notCompared: "not compared",
  onlyA: "only in A",
  onlyB: "only in B",
};

function errorText(error: number): string {
  return error === 0 ? "0" : error.toPrecision(4);
}

function outcome({ state, relativeError, a, b }: TensorDifference): string {
  if (state === "different") return relativeError === null ? "A is 0" : errorText(relativeError);
  if (state === "otherShape") return `${a?.ne.join(" × ")} / ${b?.ne.join(" × ")}`;
  return WORDS[state];
}

function cells(side: TensorSide | null): readonly [type: string, bytes: string] {
  return side === null ? ["–", "–"] : [side.type, side.bytes.toLocaleString("en-US")];
}

function modelText({ path, tensors, bytes, towersLeftOut }: DiffedModel): string {
  const towers =
    towersLeftOut === 0
      ? ""
      : `\n(${towersLeftOut} tensors of vision and audio are left out, a GGUF has none)`;
  return `${path}\n${tensors} tensors, ${bytes.toLocaleString("en-US")} bytes (${formatSize(bytes)})${towers}`;
}

/** Words such as `33 different, 2 only in A`. */
function counts({ total }: DiffReport): string {
  const parts = Object.entries(total.states)
    .filter(([, count]) => count > 0)
    .map(([state, count]) => `${count} ${WORDS[state as TensorDifference["state"]]}`);
  return parts.join(", ");
}

function overall({ total }: DiffReport): string {
  const { relativeError, states } = total;
  const leftOut = states.notFinite > 0 ? " of those that are finite" : "";
  return `${relativeError === null ? "A is 0" : errorText(relativeError)} (matrices${leftOut})`;
}

function valueText(value: ShortValue | null): string {
  if (value === null) return "–";
  if (!("from" in value)) return `${value.value} (${value.type})`;
  const isText = typeof value.value === "string";
  const text = isText ? JSON.stringify(value.value) : `[${value.value.join(", ")}]`;
  const whole = value.from === 0 && value.value.length === value.length;
  if (whole) return isText ? text : `${text} (${value.type})`;
  const unit = isText ? "characters" : value.type.replace("[]", "s");
  return `${value.length.toLocaleString("en-US")} ${unit}, from ${value.from}:\n${text}`;
}

/** Tables of both models, all tensors, the total, and metadata that differ. */
export async function renderDiff(report: DiffReport): Promise<string> {
  const { a, b, tensors, metadata } = report;
  const rows = tensors.map((tensor) => {
    const [typeA, bytesA] = cells(tensor.a);
    const [typeB, bytesB] = cells(tensor.b);
    return [MARKS[tensor.state], tensor.name, typeA, typeB, bytesA, bytesB, outcome(tensor)];
  });
  const total = [
    "",
    `total: ${tensors.length} tensors`,
    "",
    "",
    a.bytes.toLocaleString("en-US"),
    b.bytes.toLocaleString("en-US"),
    overall(report),
  ];
  const parts = [
    await renderTable(
      ["", ""],
      [
        ["A, the reference", modelText(a)],
        ["B", modelText(b)],
      ],
    ),
    await renderTable(
      ["", "tensor", "A", "B", ">bytes in A", ">bytes in B", ">relative error"],
      [...rows, total],
    ),
    `Tensors: ${counts(report)}.`,
  ];
  if (metadata === null) parts.push("Metadata: not compared, only GGUF files have them.");
  else if (metadata.length === 0) parts.push("Metadata: the same.");
  else {
    const rows = metadata.map(({ key, a, b }) => [key, valueText(a), valueText(b)]);
    parts.push(await renderTable(["metadata that differ", "A", "B"], rows));
  }
  return parts.join("\n\n");
}
