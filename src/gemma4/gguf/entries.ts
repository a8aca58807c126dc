import type { GgufValue } from "../../../formats/gguf/types.js";
import { gguf } from "../../../formats/gguf/values.js";

export type GgufEntry = readonly [key: string, value: GgufValue];

/**
 * Collects metadata in the order in which it is written. As in llama.cpp's converter, empty strings and
 * empty lists are left out.
 */
export class GgufEntries {
  readonly list: GgufEntry[] = [];

  add(key: string, value: GgufValue): void {
    this.list.push([key, value]);
  }

  u32(key: string, value: number): void {
    this.add(key, gguf.u32(value));
  }

  f32(key: string, value: number): void {
    this.add(key, gguf.f32(value));
  }

  bool(key: string, value: boolean): void {
    this.add(key, gguf.bool(value));
  }

  text(key: string, value: string | null | undefined): void {
    if (value !== null && value !== undefined && value !== "") this.add(key, gguf.string(value));
  }

  i32s(key: string, value: readonly number[]): void {
    if (value.length > 0) this.add(key, gguf.array("i32", value));
  }

  bools(key: string, value: readonly boolean[]): void {
    if (value.length > 0) this.add(key, gguf.array("bool", value));
  }

  texts(key: string, value: readonly string[]): void {
    if (value.length > 0) this.add(key, gguf.array("string", value));
  }
}
