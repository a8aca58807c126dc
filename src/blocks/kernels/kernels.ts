import { BlockError } from "../errors.js";
import { checkNBits, type NBitsMethod, nbitsRow, type NBitsType } from "../nbits/types.js";
import { blockType, blockTypes, rowBytes } from "../table.js";
import type { BlockTypeName, Method } from "../types.js";
import { joinChecksums } from "./checksums.js";
import { placeTables, tablesOf, type TableMaker } from "./tables.js";

/** Types that the kernels read and write. */
const sources: readonly BlockTypeName[] = ["F32", "F16", "BF16"];
const targets: ReadonlySet<BlockTypeName> = new Set(
  blockTypes.map(({ name }) => name).filter((name) => !/^I\d|^F64/.test(name)),
);

/** Types that heed an importance in ggml's method. */
const weighted: ReadonlySet<BlockTypeName> = new Set(
  [...targets].filter((name) => /^Q[45]_[01]$|_K$|^IQ/.test(name)),
);

/** Types that the kernels know a search for. */
const searched: ReadonlySet<BlockTypeName> = new Set<BlockTypeName>([
  "Q4_0",
  "Q5_0",
  "Q4_1",
  "Q5_1",
  "Q8_0",
  "Q2_K",
  "Q3_K",
  "Q4_K",
  "Q5_K",
  "Q6_K",
  "Q2_0",
  "Q1_0",
  "TQ1_0",
  "TQ2_0",
  "MXFP4",
  "NVFP4",
  "IQ1_S",
  "IQ1_M",
  "IQ2_XXS",
  "IQ2_XS",
  "IQ2_S",
  "IQ3_XXS",
  "IQ3_S",
  "IQ4_NL",
  "IQ4_XS",
]);

/** Bytes that the kernels may touch behind the last value, and the alignment of both regions. */
const SLACK = 64;

/** A WebAssembly memory ends at 4 GiB; a capacity needs eight bytes a value. Tiles are a few MiB. */
const MAX_CAPACITY = 2 ** 28;

const PAGE = 65_536;

function align(at: number): number {
  return Math.ceil(at / SLACK) * SLACK;
}

/** What the compiled module exports (assembly/index.ts). */
interface Exports extends TableMaker {
  readonly memory: WebAssembly.Memory;
  readonly problem: WebAssembly.Global;
  base(): number;
  checksum(at: number, length: number): number;
  convert(
    source: number,
    target: number,
    input: number,
    output: number,
    values: number,
    weights: number,
    row: number,
    blockValues: number,
    blockBytes: number,
    search: number,
  ): number;
  convertNBits(
    source: number,
    bits: number,
    block: number,
    zeroPoints: number,
    searched: number,
    input: number,
    rows: number,
    row: number,
    weights: number,
    codes: number,
    scales: number,
    zeros: number,
  ): number;
  multiply(source: number, input: number, rows: number, row: number, columns: number, scales: number): number;
}

/** Numbers that rows of values are multiplied with before they are converted. */
export interface Factors {
  /** One for each column. */
  readonly columns?: Float32Array | undefined;
  /** One for each row. */
  readonly rows?: Float32Array | undefined;
}

/** Float32 values beside the regions, in a place that grows for the longest so far. */
interface Beside {
  at: number;
  capacity: number;
}

/** Why a conversion stopped: a value is NaN or infinite, or the target cannot represent a finite one. */
export type ConversionProblem = "non-finite" | "overflow";

/**
 * The SIMD encoders with a memory of their own: an input region to read a file into and an output region to
 * write to a file from, so that nothing is copied. One instance serves one thread.
 *
 * Every target is byte for byte what `encode` gives, which is byte for byte what ggml gives, or our search.
 */
export class Kernels {
  readonly #exports: Exports;
  readonly #capacity: number;
  /** First byte of the regions. */
  readonly #inputAt: number;
  readonly #outputAt: number;
  readonly #prepared = new Set<BlockTypeName>();
  readonly #weights: Beside = { at: 0, capacity: 0 };
  readonly #columnFactors: Beside = { at: 0, capacity: 0 };
  readonly #rowFactors: Beside = { at: 0, capacity: 0 };
  #input: Uint8Array;
  #output: Uint8Array;
  #outputs: readonly Uint8Array[] = [];
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
    this.#capacity = capacityValues;
    const region = align(capacityValues * 4) + SLACK;
    this.#inputAt = align(this.#exports.base());
    this.#outputAt = this.#inputAt + region;
    const { memory } = this.#exports;
    memory.grow(Math.ceil((this.#inputAt + 2 * region) / PAGE) - memory.buffer.byteLength / PAGE);
    this.#input = new Uint8Array(memory.buffer, this.#inputAt, capacityValues * 4);
    this.#output = this.#input.subarray(0, 0);
  }

  /** The input region, `capacityValues * 4` bytes; `convert` may put another array in its place. */
  get input(): Uint8Array {
    return this.#input;
  }

  /** Whether `convert` knows a pair of types. */
  static supports(source: BlockTypeName, target: BlockTypeName): boolean {
    return sources.includes(source) && targets.has(target);
  }

  /** Whether an importance makes a difference to ggml's method for a target. */
  static heedsImportance(target: BlockTypeName): boolean {
    return weighted.has(target);
  }

  /** Whether there is a search for a target; all of them heed an importance. */
  static searches(target: BlockTypeName): boolean {
    return searched.has(target);
  }

  /**
   * Converts `values` values at the start of the input region. For equal types the values are only checked and
   * `output` is the input itself.
   *
   * @param values whole blocks of the target, and whole rows when there is an importance
   * @param importance weight of each column of a row, finite and not negative; types that do not heed it
   *   ignore it
   * @param method types that know no search are written with ggml's
   * @returns index of the first value that is NaN or infinite, or that is out of range of the target: a half
   *   ends at 65504, also as the scale of a block (the value is then the first of the largest magnitude in its
   *   block); −1 when there is none. `lastProblem` says which; `output` is then empty.
   * @throws BlockError `not-encodable`, `uneven-row` or `over-capacity`
   */
  convert(
    source: BlockTypeName,
    target: BlockTypeName,
    values: number,
    importance?: Float32Array,
    method: Method = "ggml",
  ): number {
    if (!Kernels.supports(source, target)) {
      throw new BlockError("not-encodable", `values of type ${source} cannot be converted to ${target}`, {
        advice: `The kernels read ${sources.join(", ")} and write ${[...targets].join(", ")}.`,
      });
    }
    const bytes = rowBytes(target, values);
    if (values > this.#capacity) {
      throw new BlockError(
        "over-capacity",
        `${values} values are more than the ${this.#capacity} that the kernels have room for`,
      );
    }
    const search = method === "search" && Kernels.searches(target);
    const weights = search || Kernels.heedsImportance(target) ? importance : undefined;
    if (weights !== undefined && values % weights.length !== 0) {
      throw new BlockError(
        "uneven-row",
        `${values} values are not whole rows of ${weights.length}, for which there is an importance`,
      );
    }
    const type = blockType(target);
    this.#outputs = [];
    this.#prepare(target);
    const index = this.#exports.convert(
      blockType(source).id,
      type.id,
      this.#inputAt,
      this.#outputAt,
      values,
      weights === undefined ? 0 : this.#place(this.#weights, weights),
      weights?.length ?? values,
      type.values,
      type.bytes,
      search ? 1 : 0,
    );
    if (index >= 0) {
      this.#lastProblem = this.#exports.problem.value === 1 ? "non-finite" : "overflow";
      this.#output = this.#input.subarray(0, 0);
    } else {
      this.#lastProblem = undefined;
      const start = source === target ? this.#inputAt : this.#outputAt;
      this.#output = new Uint8Array(this.#exports.memory.buffer, start, bytes);
    }
    return index;
  }

  /**
   * Converts `rows` rows of `row` values at the start of the input region to codes of a few bits with a scale, and
   * maybe a zero point, for each block; byte for byte as `encodeNBits` does.
   *
   * @param importance weight of each column, finite and not negative; the method `nearest` has no use for it
   * @returns index of the first value that is NaN or infinite, or of 65520 and more in magnitude, which no half holds;
   *   −1 when there is none. `lastProblem` says which; `outputs` is then empty.
   * @throws BlockError `not-encodable`, `bad-nbits`, `uneven-row` or `over-capacity`
   */
  convertNBits(
    source: BlockTypeName,
    type: NBitsType,
    row: number,
    rows: number,
    importance?: Float32Array,
    method: NBitsMethod = "search",
  ): number {
    if (!sources.includes(source)) {
      throw new BlockError("not-encodable", `values of type ${source} cannot be converted to codes`, {
        advice: `The kernels read ${sources.join(", ")}.`,
      });
    }
    checkNBits(type, row, rows);
    if (importance !== undefined && importance.length !== row) {
      throw new BlockError(
        "uneven-row",
        `an importance of ${importance.length} columns does not fit rows of ${row} values`,
      );
    }
    const { bits, block, zeroPoints } = type;
    // The output region has four bytes for a value. A padded one takes 19/16 at most: 8 bits in blocks of 16.
    const padded = rows * Math.ceil(row / block) * block;
    if (padded > this.#capacity) {
      throw new BlockError(
        "over-capacity",
        `${rows} rows of ${row} values, ${padded} in whole blocks, are more than the ${this.#capacity} that the kernels have room for`,
      );
    }
    const sizes = nbitsRow(type, row);
    const codesAt = this.#outputAt;
    const scalesAt = codesAt + rows * sizes.codes;
    const pointsAt = scalesAt + rows * sizes.scales;
    const weights =
      method === "search" && importance !== undefined ? this.#place(this.#weights, importance) : 0;
    const index = this.#exports.convertNBits(
      blockType(source).id,
      bits,
      block,
      zeroPoints ? 1 : 0,
      method === "search" ? 1 : 0,
      this.#inputAt,
      rows,
      row,
      weights,
      codesAt,
      scalesAt,
      pointsAt,
    );
    this.#output = this.#input.subarray(0, 0);
    this.#outputs = [];
    this.#lastProblem = undefined;
    if (index >= 0) {
      this.#lastProblem = this.#exports.problem.value === 1 ? "non-finite" : "overflow";
      return index;
    }
    const { buffer } = this.#exports.memory;
    this.#outputs = [
      new Uint8Array(buffer, codesAt, rows * sizes.codes),
      new Uint8Array(buffer, scalesAt, rows * sizes.scales),
      ...(zeroPoints ? [new Uint8Array(buffer, pointsAt, rows * sizes.zeroPoints)] : []),
    ];
    return index;
  }

  /**
   * Puts F32 values in the place of `rows` rows of `row` values at the start of the input region, each times the
   * factors of its column and its row; byte for byte as `multiplyRows` does. What follows converts from F32.
   *
   * @returns index of the first value that is NaN or infinite, as `convert` does, and then the input is as it was
   * @throws BlockError `not-encodable`, `uneven-row` or `over-capacity`
   */
  multiply(source: BlockTypeName, row: number, rows: number, { columns, rows: scales }: Factors): number {
    if (!sources.includes(source)) {
      throw new BlockError("not-encodable", `values of type ${source} cannot be multiplied`, {
        advice: `The kernels read ${sources.join(", ")}.`,
      });
    }
    if (rows * row > this.#capacity) {
      throw new BlockError(
        "over-capacity",
        `${rows * row} values are more than the ${this.#capacity} that the kernels have room for`,
      );
    }
    for (const [factors, count] of [
      [columns, row],
      [scales, rows],
    ] as const) {
      if (factors === undefined || factors.length === count) continue;
      throw new BlockError(
        "uneven-row",
        `${factors.length} factors do not fit ${rows} rows of ${row} values`,
      );
    }
    const columnsAt = columns === undefined ? 0 : this.#place(this.#columnFactors, columns);
    const rowsAt = scales === undefined ? 0 : this.#place(this.#rowFactors, scales);
    const index = this.#exports.multiply(blockType(source).id, this.#inputAt, rows, row, columnsAt, rowsAt);
    this.#output = this.#input.subarray(0, 0);
    this.#outputs = [];
    this.#lastProblem = index >= 0 ? "non-finite" : undefined;
    return index;
  }

  /** Makes the tables of a type that is searched on a lattice, once. */
  #prepare(target: BlockTypeName): void {
    if (tablesOf(target) === undefined || this.#prepared.has(target)) return;
    const { id } = blockType(target);
    placeTables(this.#exports, target, this.#grow(this.#exports.tableBytes(id)));
    this.#prepared.add(target);
  }

  /** Copies values into the memory of the kernels. */
  #place(beside: Beside, values: Float32Array): number {
    if (values.length > beside.capacity) {
      beside.at = this.#grow(values.length * 4 + SLACK);
      beside.capacity = values.length;
    }
    new Float32Array(this.#exports.memory.buffer, beside.at, values.length).set(values);
    return beside.at;
  }

  /** Adds memory and returns where it starts; all views of the memory are made anew. */
  #grow(bytes: number): number {
    const { memory } = this.#exports;
    const start = memory.grow(Math.ceil(bytes / PAGE)) * PAGE;
    this.#input = new Uint8Array(memory.buffer, this.#inputAt, this.#capacity * 4);
    return start;
  }

  /**
   * Takes bytes that were made elsewhere for those of the last conversion.
   *
   * @throws BlockError `over-capacity` when the output region is shorter
   */
  put(bytes: Uint8Array): void {
    if (bytes.length > this.#capacity * 4) {
      throw new BlockError(
        "over-capacity",
        `${bytes.length} bytes are more than the ${this.#capacity * 4} that the kernels have room for`,
      );
    }
    this.#output = new Uint8Array(this.#exports.memory.buffer, this.#outputAt, bytes.length);
    this.#output.set(bytes);
    this.#outputs = [];
  }

  /** The bytes that the last `convert` made; valid until the next one. */
  get output(): Uint8Array {
    return this.#output;
  }

  /**
   * The codes, scales and, for a type that has them, zero points that the last `convertNBits` made, each of all rows;
   * valid until the next conversion. Empty after a conversion of the other kind.
   */
  get outputs(): readonly Uint8Array[] {
    return this.#outputs;
  }

  /** Checksum of all `outputs`, 32 bits: `joinChecksums` of what `checksumOf` gives for the bytes of each. */
  checksumOfOutputs(): number {
    return joinChecksums(
      this.#outputs.map(({ byteOffset, length }) => this.#exports.checksum(byteOffset, length) >>> 0),
    );
  }

  /** Checksum of `output`, 32 bits; `checksumOf` gives the same for the same bytes. */
  checksum(): number {
    return this.#exports.checksum(this.#output.byteOffset, this.#output.length) >>> 0;
  }

  /**
   * Checksum of the first bytes of the input region, 32 bits.
   *
   * @throws BlockError `over-capacity` when the region is shorter
   */
  checksumOf(length: number): number {
    if (length > this.#input.length) {
      throw new BlockError(
        "over-capacity",
        `${length} bytes are more than the ${this.#input.length} that the kernels have room for`,
      );
    }
    return this.#exports.checksum(this.#inputAt, length) >>> 0;
  }

  /** What stopped the last `convert`, or undefined when it went through. */
  get lastProblem(): ConversionProblem | undefined {
    return this.#lastProblem;
  }
}
