import { appendFileSync } from "node:fs";
import type { CreateVisitor } from "../../engines/types.js";

/** Path of the file that rows are written to, in the query of this module's address. */
const PATH = new URL(import.meta.url).searchParams.get("to");

/** Writes logits to a file, row by row, for a runtime that compares them with those of another model. */
export const createVisitor: CreateVisitor = () => {
  if (PATH === null) throw new Error("the address names no file for the logits");
  return {
    columns: 1,
    visit: ([row], _target, out) => {
      const { buffer, byteOffset, byteLength } = row!;
      appendFileSync(PATH, new Uint8Array(buffer, byteOffset, byteLength));
      out[0] = 0;
    },
  };
};
