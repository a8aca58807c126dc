import { GgufStrings } from "./strings.js";
import type { GgufArray, GgufBigintType, GgufNumberType, GgufScalarType, GgufValue } from "./types.js";

function array(of: GgufNumberType, value: ArrayLike<number>): GgufArray;
function array(of: GgufBigintType, value: ArrayLike<bigint>): GgufArray;
function array(of: "bool", value: readonly boolean[]): GgufArray;
function array(of: "string", value: Iterable<string>): GgufArray;
function array(
  of: GgufScalarType,
  value: ArrayLike<number> | ArrayLike<bigint> | readonly boolean[] | Iterable<string>,
): GgufArray {
  // The overloads tie each type to its values; only strings need another shape.
  if (of !== "string") return { type: "array", of, value } as GgufArray;
  const strings = value as Iterable<string>;
  return { type: "array", of, value: strings instanceof GgufStrings ? strings : GgufStrings.from(strings) };
}

/** Metadata values with their type, such as `gguf.u32(1)` or `gguf.array("i32", [1, 2])`; ranges are checked when written. */
export const gguf = {
  u8: (value: number): GgufValue => ({ type: "u8", value }),
  i8: (value: number): GgufValue => ({ type: "i8", value }),
  u16: (value: number): GgufValue => ({ type: "u16", value }),
  i16: (value: number): GgufValue => ({ type: "i16", value }),
  u32: (value: number): GgufValue => ({ type: "u32", value }),
  i32: (value: number): GgufValue => ({ type: "i32", value }),
  f32: (value: number): GgufValue => ({ type: "f32", value }),
  f64: (value: number): GgufValue => ({ type: "f64", value }),
  u64: (value: bigint): GgufValue => ({ type: "u64", value }),
  i64: (value: bigint): GgufValue => ({ type: "i64", value }),
  bool: (value: boolean): GgufValue => ({ type: "bool", value }),
  string: (value: string): GgufValue => ({ type: "string", value }),
  array,
};
