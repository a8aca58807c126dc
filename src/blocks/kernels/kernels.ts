import { BlockError } from "../errors.js";
import { rowBytes } from "../table.js";
import type { BlockTypeName } from "../types.js";

/** Types the kernels read and write; the index is the number that the compiled code knows them by. */
const sources: readonly BlockTypeName[] = ["F32", "F16", "BF16"];
const targets: readonly BlockTypeName[] = ["F32", "F16", "BF16", "Q8_0", "Q4_0", "Q6_K"];

/** Bytes that the kernels may touch behind the last value, and the alignment of both regions. */
const SLACK = 64;

/** A WebAssembly memory ends at 4 GiB; a capacity needs eight bytes a value. Tiles are a few MiB. */
const MAX_CAPACITY = 2 ** 28;

const PAGE = 65_536;

/** What the compiled module exports (assembly/index.ts). */
interface Exports {
  readonly memory: WebAssembly.Memory;
  readonly problem: WebAssembly.Global;
  base(): number;
  convert(source: number, target: number, input: number, output: number, values: number): number;
}

/** Why a conversion stopped: a value is NaN or infinite, or the target cannot represent a finite one. */
export type ConversionProblem = "non-finite" | "overflow";

/**
 * The SIMD encoders with a memory of their own: an input region to read a file into and an output region to
 * write to a file from, so that nothing is copied. One instance serves one thread.
 *
 * Every target is byte for byte what `encode` gives, which is byte for byte what ggml gives without importance.
 */
export class Kernels {
  /** The input region, `capacityValues * 4` bytes. */
  readonly input: Uint8Array;
  readonly #exports: Exports;
  readonly #outputRegion: Uint8Array;
  #output: Uint8Array;
  #lastProblem: ConversionProblem | undefined;

  /**
   * @param module from `compileKernels`
   * @param capacityValues most values of a conversion
   * @throws BlockError `bad-capacity` when the regions would not fit a WebAssembly memory
   */
  constructor(module: WebAssembly.Module, capacityValues: number) {
    if (!Number.isSafeInteger(capacityValues) || capacityValues < 1 || capacityValues > MAX_CAPACITY) {
      throw new BlockError(
        "bad-capacity",
        `a kernel capacity of ${capacityValues} values is not between 1 and ${MAX_CAPACITY}`,
      );
    }
    this.#exports = new WebAssembly.Instance(module).exports as unknown as Exports;
    const align = (at: number): number => Math.ceil(at / SLACK) * SLACK;
    const region = align(capacityValues * 4) + SLACK;
    const start = align(this.#exports.base());
    const { memory } = this.#exports;
    memory.grow(Math.ceil((start + 2 * region) / PAGE) - memory.buffer.byteLength / PAGE);
    this.input = new Uint8Array(memory.buffer, start, capacityValues * 4);
    this.#outputRegion = new Uint8Array(memory.buffer, start + region, capacityValues * 4);
    this.#output = this.#outputRegion.subarray(0, 0);
  }

  /** Whether `convert` knows a pair of types. */
  static supports(source: BlockTypeName, target: BlockTypeName): boolean {
    return sources.includes(source) && targets.includes(target);
  }

  /**
   * Converts `values` values at the start of the input region. For equal types the values are only checked and
   * `output` is the input itself.
   *
   * @param values whole blocks of the target
   * @returns index of the first value that is NaN or infinite, or that is out of range of the target: a half
   *   ends at 65504, also as the scale of a block (the value is then the first of the largest magnitude in its
   *   block); −1 when there is none. `lastProblem` says which; `output` is then empty.
   * @throws BlockError `not-encodable`, `uneven-row` or `over-capacity`
   */
  convert(source: BlockTypeName, target: BlockTypeName, values: number): number {
    if (!Kernels.supports(source, target)) {
      throw new BlockError("not-encodable", `values of type ${source} cannot be converted to ${target}`, {
        advice: `The kernels read ${sources.join(", ")} and write ${targets.join(", ")}.`,
      });
    }
    const bytes = rowBytes(target, values);
    if (values * 4 > this.input.length) {
      throw new BlockError(
        "over-capacity",
        `${values} values are more than the ${this.input.length / 4} that the kernels have room for`,
      );
    }
    const index = this.#exports.convert(
      sources.indexOf(source),
      targets.indexOf(target),
      this.input.byteOffset,
      this.#outputRegion.byteOffset,
      values,
    );
    if (index >= 0) {
      this.#lastProblem = this.#exports.problem.value === 1 ? "non-finite" : "overflow";
      this.#output = this.#outputRegion.subarray(0, 0);
    } else {
      this.#lastProblem = undefined;
      const region = source === target ? this.input : this.#outputRegion;
      this.#output = region.subarray(0, bytes);
    }
    return index;
  }

  /** The bytes that the last `convert` made; valid until the next one. */
  get output(): Uint8Array {
    return this.#output;
  }

  /** What stopped the last `convert`, or undefined when it went through. */
  get lastProblem(): ConversionProblem | undefined {
    return this.#lastProblem;
  }
}
