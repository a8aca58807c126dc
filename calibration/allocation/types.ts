import { findBlockType, rowBytes } from "../../src/blocks/table.js";
import type { BlockTypeName } from "../../src/blocks/types.js";
import { nbitsRow, type NBitsType } from "../../src/blocks/nbits/types.js";
import { AllocationError } from "./errors.js";

/** A type that weights may be rounded to: blocks of GGUF, or codes of ONNX Runtime's operators. */
export type RoundedType =
  | { readonly name: string; readonly format: "gguf"; readonly block: BlockTypeName }
  | { readonly name: string; readonly format: "onnx"; readonly codes: NBitsType };

/** Types that weights of a file are not rounded to. */
const NUMBERS: ReadonlySet<string> = new Set(["F32", "F16", "BF16", "F64", "I8", "I16", "I32", "I64"]);

/**
 * Types that are tried where nothing else is said: those that lose little for their size, whatever importance is known.
 */
export const USUAL_TYPES: Readonly<Record<RoundedType["format"], readonly string[]>> = {
  gguf: ["Q2_K", "Q3_K", "IQ3_S", "Q4_0", "IQ4_NL", "IQ4_XS", "Q4_K", "Q5_0", "Q5_K", "Q6_K", "Q8_0"],
  onnx: ["q2z-32", "q4-32", "q4z-32", "q8-32"],
};

/**
 * A type by its name: a block type of GGUF in any case, or bits for ONNX with z for zero points and the size of the
 * blocks, such as `q4z-32`.
 *
 * @throws AllocationError `unknown-type` (exit code 2)
 */
export function roundedType(name: string): RoundedType {
  const [, bits, zeroPoints, block] = /^q([248])(z?)-(16|32|64|128|256)$/.exec(name) ?? [];
  if (bits !== undefined) {
    const codes = {
      bits: Number(bits) as NBitsType["bits"],
      block: Number(block),
      zeroPoints: zeroPoints === "z",
    };
    return { name, format: "onnx", codes };
  }
  const found = findBlockType(name)?.name;
  if (found !== undefined && !NUMBERS.has(found)) return { name: found, format: "gguf", block: found };
  throw new AllocationError(
    "unknown-type",
    `${JSON.stringify(name.slice(0, 40))} is no type to round to, expected a block type such as Q4_K, or for ONNX bits and block such as q4z-32.`,
    { exitCode: 2 },
  );
}

/** Bytes of a matrix in a type; undefined where its rows are not whole blocks. */
export function bytesIn(type: RoundedType, row: number, rows: number): number | undefined {
  if (type.format === "onnx") {
    const { codes, scales, zeroPoints } = nbitsRow(type.codes, row);
    return rows * (codes + scales + zeroPoints);
  }
  return fits(type, row) ? rowBytes(type.block, row * rows) : undefined;
}

/** Whether rows can be stored in a type. */
export function fits(type: RoundedType, row: number): boolean {
  return type.format === "onnx" || row % (findBlockType(type.block)?.values ?? 1) === 0;
}
