import { type GridName, grid } from "../decode/grids.js";
import { blockType } from "../table.js";
import type { BlockTypeName } from "../types.js";

/** The lattices of the types that are searched on one. */
const lattices: ReadonlyMap<BlockTypeName, GridName> = new Map([
  ["IQ1_S", "iq1s"],
  ["IQ1_M", "iq1s"],
  ["IQ2_XXS", "iq2xxs"],
  ["IQ2_XS", "iq2xs"],
  ["IQ2_S", "iq2s"],
  ["IQ3_XXS", "iq3xxs"],
  ["IQ3_S", "iq3s"],
]);

/** What the compiled module exports for tables. */
export interface TableMaker {
  readonly memory: WebAssembly.Memory;
  tableBytes(target: number): number;
  makeTables(target: number, at: number): void;
}

/** The lattice whose tables a type needs, if it needs any. */
export function tablesOf(target: BlockTypeName): GridName | undefined {
  return lattices.get(target);
}

/** Makes the tables of a type that is searched on a lattice, `tableBytes` long, where memory is free. */
export function placeTables(exports: TableMaker, target: BlockTypeName, at: number): void {
  const name = lattices.get(target);
  if (name === undefined) return;
  const points = grid(name);
  new Int8Array(exports.memory.buffer, at, points.length).set(points);
  exports.makeTables(blockType(target).id, at);
}
