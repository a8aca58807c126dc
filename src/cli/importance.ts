import { basename } from "node:path";
import { formatSize } from "../base/sizes.js";
import type {
  ComparedImportance,
  ImatrixComparison,
  ImatrixFile,
  InspectedImatrix,
  InspectedImportance,
  MergeReport,
} from "../pipeline/imatrix.js";
import { printable } from "./printable.js";
import { renderTable } from "./table.js";

/** Starved experts of a tensor that a line names; a stack has 128. */
const SHOWN_EXPERTS = 8;

/** Files that a line names; a merge of many has as many texts. */
const SHOWN_DATASETS = 4;

/** Files that lack a tensor, as a line names them. */
const SHOWN_FILES = 4;

/** Tensors that a line names. */
const SHOWN_TENSORS = 8;

function list(texts: readonly string[], shown: number): string {
  const more = texts.length > shown ? `, and ${texts.length - shown} more` : "";
  return texts.slice(0, shown).join(", ") + more;
}

function share(value: number): string {
  return `${(100 * value).toFixed(2)} %`;
}

/** A number of any size in five digits. */
function digits(value: number): string {
  return value === 0 ? "0" : value.toPrecision(5);
}

function windowsText({ chunks, chunkTokens }: Pick<ImatrixFile, "chunks" | "chunkTokens">): string {
  const tokens = chunkTokens === null ? "length not known" : `${chunkTokens} tokens each`;
  return `${chunks.toLocaleString("en-US")} (${tokens})`;
}

function fileText({ path, format, tensors, ...head }: ImatrixFile): string {
  const old = format === "legacy" ? ", of the old .dat format" : "";
  return `${path}\n${tensors} tensors${old}, windows: ${windowsText(head)}`;
}

function row({ name, columns, matrices, counts, distribution, cosine, starved }: InspectedImportance) {
  const shape = matrices === 1 ? String(columns) : `${columns} × ${matrices}`;
  const count = matrices === 1 || counts.least === counts.most ? counts.most : counts.mean;
  const head = [name, shape, Math.round(count).toLocaleString("en-US")];
  const tail = [matrices === 1 ? "" : String(starved.length)];
  if (distribution === null) return [...head, ...Array.from({ length: 10 }, () => "–"), ...tail];
  const { sum, min, max, mean, deviation, zero, active, evenness, high } = distribution;
  return [
    ...head,
    digits(sum),
    digits(min),
    digits(max),
    digits(mean),
    digits(deviation),
    share(zero),
    share(active),
    evenness === null ? "–" : share(evenness),
    share(high),
    cosine === null ? "–" : cosine.toFixed(4),
    ...tail,
  ];
}

function starvedText({ name, matrices, starved }: InspectedImportance): string {
  const experts = starved.map(({ expert, count }) => `${expert} (${count.toLocaleString("en-US")})`);
  return `${name}: ${starved.length} of ${matrices} experts: ${list(experts, SHOWN_EXPERTS)}`;
}

/** Tables of facts and tensors, and experts with few tokens. */
export async function renderImatrix(found: InspectedImatrix): Promise<string> {
  const { path, format, datasets, tensors } = found;
  const unit = format === "gguf" ? "tokens" : "windows";
  const facts = [
    ["format", format === "gguf" ? "GGUF" : ".dat of older versions"],
    ["text", datasets.length === 0 ? "not named" : list(datasets, SHOWN_DATASETS)],
    ["windows", windowsText(found)],
    ["tensors", String(tensors.length)],
  ];
  const stacked = tensors.some(({ matrices }) => matrices > 1);
  const header = ["tensor", ">columns", `>${unit}`, ">Σ act²", ">min", ">max", ">mean", ">σ"];
  header.push(">zero", ">active", ">entropy", ">high", ">cosine", ...(stacked ? [">starved"] : []));
  const rows = tensors.map((tensor) => row(tensor).slice(0, header.length));
  const parts = [path, await renderTable(["", ""], facts), await renderTable(header, rows)];
  const starved = tensors.filter((tensor) => tensor.starved.length > 0);
  if (starved.length > 0) {
    parts.push(`Experts with few ${unit} or none:\n${starved.map(starvedText).join("\n")}`);
  }
  return printable(parts.join("\n\n"));
}

const STATES: Readonly<Record<Exclude<ComparedImportance["state"], "compared">, string>> = {
  otherShape: "other shape",
  onlyA: "only in A",
  onlyB: "only in B",
};

function comparedRow({ name, state, likeness }: ComparedImportance): string[] {
  if (likeness === null) return [name, state === "compared" ? "–" : STATES[state], "", ""];
  const { correlation, ratio, worstExpert } = likeness;
  return [
    name,
    correlation === null ? "–" : correlation.toFixed(6),
    ratio === null ? "–" : digits(ratio),
    worstExpert === null ? "" : `${worstExpert.expert} (${worstExpert.correlation.toFixed(4)})`,
  ];
}

/** Tables of both files and of all tensors, and the one that is least alike. */
export async function renderImatrixComparison({ a, b, tensors, worst }: ImatrixComparison): Promise<string> {
  const files = [
    ["A", fileText(a)],
    ["B", fileText(b)],
  ];
  const stacked = tensors.some(({ likeness }) => likeness !== null && likeness.worstExpert !== null);
  const header = ["tensor", ">correlation", ">Σ of B / A", ...(stacked ? [">worst expert"] : [])];
  const rows = tensors.map((tensor) => comparedRow(tensor).slice(0, header.length));
  const last =
    worst === null
      ? "No correlation: the values of every tensor are all the same."
      : `Least alike: ${worst.name}, ${worst.correlation.toFixed(6)}.`;
  const parts = [await renderTable(["", ""], files), await renderTable(header, rows), last];
  return printable(parts.join("\n\n"));
}

/** A line for the tensors that the same files lack. */
function partialText(partial: MergeReport["partial"]): string {
  const groups = new Map<string, string[]>();
  for (const { name, missing } of partial) {
    const files = list(
      missing.map((path) => basename(path)),
      SHOWN_FILES,
    );
    const names = groups.get(files) ?? [];
    groups.set(files, names);
    names.push(name);
  }
  const lines = [...groups].map(([files, names]) => `not in ${files}: ${list(names, SHOWN_TENSORS)}`);
  return `Tensors that not all files have:\n${lines.join("\n")}`;
}

/** Tables of what was read and of what was written, and the tensors that some files lack. */
export async function renderMerge(report: MergeReport): Promise<string> {
  const { path, bytes, tensors, files, partial } = report;
  const read = files.map((file) => [file.path, String(file.weight), String(file.tensors), windowsText(file)]);
  const parts = [
    await renderTable(["file", ">weight", ">tensors", ">windows"], read),
    `${path}: ${tensors} tensors, ${formatSize(bytes)}, windows: ${windowsText(report)}`,
  ];
  if (partial.length > 0) parts.push(partialText(partial));
  return printable(parts.join("\n\n"));
}
