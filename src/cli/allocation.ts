import { formatSize } from "../base/sizes.js";
import type { AblationReport } from "../pipeline/ablation.js";
import type { AllocationReport } from "../pipeline/allocate.js";
import type { SensitivityReport } from "../pipeline/sensitivity.js";
import { renderTable } from "./table.js";

/** Width of the longest bar. */
const BAR = 30;

/** Mixes or dtypes that are shown on either side of the size of a plan. */
const NEIGHBOURS = 2;

function nats(value: number): string {
  return value.toPrecision(3);
}

/** Types with what rounding everything to them costs. */
export async function renderSensitivity({ file, types }: SensitivityReport): Promise<string> {
  const rows = types.map(({ type, weights, kld }) => [type, String(weights), nats(kld)]);
  return `${await renderTable(["everything as", ">weights", ">estimated KLD"], rows)}\n${file}`;
}

/** What each weight got, by type, and what else there is of about the same size. */
export async function renderAllocation({ output, columns }: AllocationReport): Promise<string> {
  const parts: string[] = [];
  for (const {
    format,
    origin,
    name,
    bytes,
    bitsPerWeight,
    kld,
    shares,
    compared,
    control,
    weights,
  } of columns) {
    const what =
      origin === "mix"
        ? `${name}, which loses less than what was chosen weight by weight`
        : "chosen weight by weight";
    parts.push(
      `${format}: ${bytes} bytes (${formatSize(bytes)}), ${bitsPerWeight.toFixed(3)} bits a weight, estimated KL divergence ${nats(kld)}; ${what}`,
      await renderTable(
        ["weight", "type", ">size", ">estimated KLD"],
        weights.map((each) => [each.name, each.type, formatSize(each.bytes), nats(each.kld)]),
      ),
      await renderTable(
        ["type", ">weights", ">size", ">estimated KLD"],
        shares.map((share) => [share.type, String(share.weights), formatSize(share.bytes), nats(share.kld)]),
      ),
    );
    const place = compared.filter((each) => each.bytes <= bytes).length;
    const near = compared.slice(Math.max(0, place - NEIGHBOURS), place + NEIGHBOURS);
    const rows = near.map((each) => [each.name, formatSize(each.bytes), nats(each.kld)]);
    rows.push(["by chance, mean of 20", formatSize(bytes), nats(control.mean)]);
    rows.push(["by chance, best of 20", formatSize(bytes), nats(control.least)]);
    parts.push(await renderTable(["compared with", ">size", ">estimated KLD"], rows));
  }
  return `${parts.join("\n")}\n${output}`;
}

/** The costliest weights first, with a bar for each. */
export async function renderAblation({ type, tokens, results, left }: AblationReport): Promise<string> {
  const tables: string[] = [`rounded to ${type} alone, measured on ${tokens} tokens`];
  for (const by of ["weight", "role", "layer"] as const) {
    const own = results.filter((each) => each.by === by);
    if (own.length === 0) continue;
    const most = Math.max(...own.map(({ kld }) => kld), Number.MIN_VALUE);
    const rows = own.map(({ name, weights, kld, sameTop }) => [
      name,
      ...(by === "weight" ? [] : [String(weights)]),
      nats(kld),
      `${(sameTop * 100).toFixed(2)} %`,
      "█".repeat(Math.round((Math.max(kld, 0) / most) * BAR)),
    ]);
    const header = [by, ...(by === "weight" ? [] : [">weights"]), ">KLD", ">same top", ""];
    tables.push(await renderTable(header, rows));
  }
  if (left.length > 0)
    tables.push(`Left out, since their rows are not whole blocks of ${type}: ${left.join(", ")}`);
  return tables.join("\n");
}
