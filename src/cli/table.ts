import { printable } from "./printable.js";

/**
 * Renders rows under a header, numbers to the right, without colours.
 *
 * @param header column titles; a title that starts with `>` is aligned to the right
 */
export async function renderTable(
  header: readonly string[],
  rows: readonly (readonly string[])[],
): Promise<string> {
  const { default: Table } = await import("cli-table3");
  const table = new Table({
    head: header.map((title) => title.replace(/^>/, "")),
    colAligns: header.map((title) => (title.startsWith(">") ? "right" : "left")),
    style: { head: [], border: [], compact: true },
  });
  table.push(...rows.map((row) => row.map((cell) => printable(cell))));
  return table.toString();
}
