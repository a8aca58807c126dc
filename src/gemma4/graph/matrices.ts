import { attr } from "../../../formats/onnx/build.js";
import type { Weight } from "../types.js";
import { MICROSOFT } from "./builder.js";
import type { GraphContext } from "./context.js";
import { cut, type FloatForm, largestRow, type NBitsForm, type Range, type StoredForm } from "./stored.js";

/** Columns at whose multiples a table may be cut: no block of any form is longer. */
const COLUMN_QUANTUM = 256;

/** The tensors of a matrix, or of some of its rows. */
interface Stored {
  readonly codes: string;
  readonly scales: string;
  readonly zeroPoints: string;
}

/** Names and shapes of what an N-bits matrix consists of. */
function nbitsTensors(
  ctx: GraphContext,
  weight: Weight,
  form: NBitsForm,
  slice: { readonly rows?: Range; readonly columns?: Range },
  flat: boolean,
): Stored {
  const { builder } = ctx;
  const { bits, block, zeroPoints } = form;
  const stack = weight.shape.slice(0, -2);
  const rows = slice.rows?.count ?? weight.shape.at(-2)!;
  const columns = slice.columns?.count ?? weight.shape.at(-1)!;
  const blocks = Math.ceil(columns / block);
  const blob = (block * bits) / 8;
  const base = weight.name + suffixOf(slice);
  const common = { weight, form, ...slice };
  return {
    codes: builder.tensor({
      ...common,
      name: `${base}.codes`,
      type: "UINT8",
      dims: flat ? [...stack, rows, blocks * blob] : [...stack, rows, blocks, blob],
      part: "codes",
    }),
    scales: builder.tensor({
      ...common,
      name: `${base}.scales`,
      type: "FLOAT16",
      dims: [...stack, rows, blocks],
      part: "scales",
    }),
    zeroPoints: zeroPoints
      ? builder.tensor({
          ...common,
          name: `${base}.zero_points`,
          type: "UINT8",
          dims: [...stack, rows, Math.ceil((blocks * bits) / 8)],
          part: "zeroPoints",
        })
      : "",
  };
}

function suffixOf({ rows, columns }: { readonly rows?: Range; readonly columns?: Range }): string {
  const range = rows ?? columns;
  return range === undefined ? "" : `.${range.first}`;
}

function floatTensor(
  ctx: GraphContext,
  weight: Weight,
  form: FloatForm,
  slice: { readonly rows?: Range; readonly columns?: Range },
): string {
  const dims = [...weight.shape];
  if (slice.rows !== undefined) dims[dims.length - 2] = slice.rows.count;
  if (slice.columns !== undefined) dims[dims.length - 1] = slice.columns.count;
  const name = weight.name + suffixOf(slice);
  return ctx.builder.tensor({ name, type: form.type, dims, weight, form, part: "values", ...slice });
}

function matMulNBits(
  ctx: GraphContext,
  name: string,
  x: string,
  { codes, scales, zeroPoints }: Stored,
  { bits, block }: NBitsForm,
  shape: { readonly rows: number; readonly columns: number },
): string {
  const inputs = [x, codes, scales, ...(zeroPoints === "" ? [] : [zeroPoints])];
  return ctx.builder.addMicrosoft("MatMulNBits", name, inputs, {
    K: attr.int(shape.columns),
    N: attr.int(shape.rows),
    bits: attr.int(bits),
    block_size: attr.int(block),
    accuracy_level: attr.int(ctx.options.accuracyLevel),
  });
}

/** Scales have to be of the type of the activations. */
function scalesFor(ctx: GraphContext, name: string, scales: string): string {
  if (ctx.options.internal === "FLOAT16") return scales;
  return ctx.once(`${name}.float`, (at) => ctx.builder.cast(at, scales, "FLOAT"));
}

/**
 * x · Wᵀ, in the internal type.
 *
 * @param weight [out, in]
 * @param x [batch, sequence, in], in the internal type
 * @param outer name of the shape [batch, sequence, −1]; undefined where x has two dimensions
 * @returns [batch, sequence, out]
 */
export function linear(
  ctx: GraphContext,
  weight: Weight,
  x: string,
  outer: string | undefined,
  name: string,
): string {
  const form = ctx.options.source.form(weight);
  const [rows = 0, columns = 0] = weight.shape;
  const most = Math.floor(ctx.options.source.maxTensorBytes / largestRow(form, columns));
  const ranges = cut(rows, most, 1, weight.name);
  if (ranges.length === 1) return product(ctx, weight, form, x, outer, name, undefined);
  const parts = ranges.map((range) => product(ctx, weight, form, x, outer, `${name}.${range.first}`, range));
  return ctx.builder.add("Concat", name, parts, { axis: attr.int(-1) });
}

/**
 * x · Wᵀ with some rows of a matrix.
 *
 * @param x [batch, sequence, in], in the internal type
 * @param outer name of the shape [batch, sequence, −1]
 * @returns [batch, sequence, rows.count]
 */
export function linearRows(
  ctx: GraphContext,
  weight: Weight,
  rows: Range,
  { x, outer, name }: { readonly x: string; readonly outer: string; readonly name: string },
): string {
  return product(ctx, weight, ctx.options.source.form(weight), x, outer, name, rows);
}

function product(
  ctx: GraphContext,
  weight: Weight,
  form: StoredForm,
  x: string,
  outer: string | undefined,
  name: string,
  range: Range | undefined,
): string {
  const slice = range === undefined ? {} : { rows: range };
  const [all = 0, columns = 0] = weight.shape;
  if (form.kind === "nbits") {
    const stored = nbitsTensors(ctx, weight, form, slice, false);
    const scales = scalesFor(ctx, stored.scales, stored.scales);
    return matMulNBits(ctx, name, x, { ...stored, scales }, form, { rows: range?.count ?? all, columns });
  }
  const y = floatProduct(ctx, floatTensor(ctx, weight, form, slice), form, { x, columns, outer, name });
  ctx.options.multiplied?.({ weight, rows: range, x, y });
  return y;
}

interface FloatProduct {
  readonly x: string;
  readonly columns: number;
  readonly outer: string | undefined;
  readonly name: string;
}

/** x · Wᵀ by Gemm, which takes W as it lies and every provider has; it wants two dimensions. */
function floatProduct(
  ctx: GraphContext,
  matrix: string,
  { type }: FloatForm,
  { x, columns, outer, name }: FloatProduct,
): string {
  const { builder, options } = ctx;
  const w = type === options.internal ? matrix : builder.cast(`${name}.weight`, matrix, options.internal);
  const attributes = { transB: attr.int(1) };
  if (outer === undefined) return builder.add("Gemm", name, [x, w], attributes);
  const flat = builder.add("Reshape", `${name}.rows`, [x, builder.integers([-1, columns])]);
  const y = builder.add("Gemm", `${name}.product`, [flat, w], attributes);
  return builder.add("Reshape", name, [y, outer]);
}

/**
 * x · Wᵀ with one matrix of a stack that is chosen when the graph runs.
 *
 * @param weight [count, out, in]
 * @param x [rows, in], in the internal type
 * @param index which one, without dimensions
 * @returns [rows, out]
 */
export function linearOf(ctx: GraphContext, weight: Weight, x: string, index: string, name: string): string {
  const { builder } = ctx;
  const form = ctx.options.source.form(weight);
  const [, rows = 0, columns = 0] = weight.shape;
  const pick = (tensor: string, at: string): string =>
    builder.add("Gather", at, [tensor, index], { axis: attr.int(0) });
  if (form.kind === "float") {
    const matrix = pick(floatTensor(ctx, weight, form, {}), `${name}.own`);
    return floatProduct(ctx, matrix, form, { x, columns, outer: undefined, name });
  }
  const stored = nbitsTensors(ctx, weight, form, {}, false);
  const scales = pick(stored.scales, `${name}.scales`);
  const own = {
    codes: pick(stored.codes, `${name}.codes`),
    scales:
      ctx.options.internal === "FLOAT16" ? scales : builder.cast(`${name}.scales.float`, scales, "FLOAT"),
    zeroPoints: stored.zeroPoints === "" ? "" : pick(stored.zeroPoints, `${name}.zero_points`),
  };
  return matMulNBits(ctx, name, x, own, form, { rows, columns });
}

/**
 * Rows of a table, in single precision. Of an N-bits table they come as halves, as its scales are: to widen the
 * scales would keep all of them in memory, for rows that a table seldom gives.
 *
 * @param weight [vocabulary, width]
 * @param ids [batch, sequence]
 * @returns [batch, sequence, width]
 */
export function lookUp(ctx: GraphContext, weight: Weight, ids: string, name: string): string {
  const { builder } = ctx;
  const form = ctx.options.source.form(weight);
  const [rows = 0, columns = 0] = weight.shape;
  const perColumn = (largestRow(form, COLUMN_QUANTUM) / COLUMN_QUANTUM) * rows;
  const most = Math.floor(ctx.options.source.maxTensorBytes / perColumn);
  const ranges = cut(columns, most, COLUMN_QUANTUM, weight.name);
  const parts = ranges.map((range) => {
    const slice = ranges.length === 1 ? {} : { columns: range };
    const own = `${name}.rows${suffixOf(slice)}`;
    if (form.kind === "float") {
      return builder.add("Gather", own, [floatTensor(ctx, weight, form, slice), ids], { axis: attr.int(0) });
    }
    const { codes, scales, zeroPoints } = nbitsTensors(ctx, weight, form, slice, true);
    const inputs = [codes, ids, scales, ...(zeroPoints === "" ? [] : [zeroPoints])];
    return builder.add(
      "GatherBlockQuantized",
      own,
      inputs,
      {
        bits: attr.int(form.bits),
        block_size: attr.int(form.block),
        gather_axis: attr.int(0),
        quantize_axis: attr.int(1),
      },
      MICROSOFT,
    );
  });
  const found =
    parts.length === 1 ? parts[0]! : builder.add("Concat", `${name}.joined`, parts, { axis: attr.int(-1) });
  return form.kind === "float" && form.type === "FLOAT" ? found : builder.cast(name, found, "FLOAT");
}

/**
 * One of the equal parts that the rows of a table consist of, in single precision. The table is read as one of more
 * rows that are shorter, so that the other parts are not touched.
 *
 * @param weight [vocabulary, parts · width], of floats
 * @param ids [batch, sequence]
 * @returns [batch, sequence, width]
 */
export function lookUpPart(
  ctx: GraphContext,
  weight: Weight,
  ids: string,
  { part, parts, name }: { readonly part: number; readonly parts: number; readonly name: string },
): string {
  const { builder } = ctx;
  const form = ctx.options.source.form(weight);
  if (form.kind !== "float") throw new RangeError(`${weight.name} of ${form.bits} bits is not read in parts`);
  const [rows = 0, columns = 0] = weight.shape;
  const dims = [rows * parts, columns / parts];
  const table = builder.tensor({ name: weight.name, type: form.type, dims, weight, form, part: "values" });
  const firsts = builder.add("Mul", `${name}.firsts`, [ids, builder.integer(parts)]);
  const places = builder.add("Add", `${name}.places`, [firsts, builder.integer(part)]);
  const found = builder.add("Gather", `${name}.rows`, [table, places], { axis: attr.int(0) });
  return form.type === "FLOAT" ? found : builder.cast(name, found, "FLOAT");
}
