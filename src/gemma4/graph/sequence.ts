import { attr } from "../../../formats/onnx/build.js";
import type { LayerConfig, LayerKind } from "../types.js";
import type { GraphContext } from "./context.js";

/** What a mask adds to scores that do not count: a number that halves can hold, where they are halves. */
const MASKED = { FLOAT: -1e9, FLOAT16: -6e4 } as const;

/** What all layers share of the tokens of a call. */
export interface Sequence {
  /** Shape [batch, sequence, −1]: to reshape rows back. */
  readonly outer: string;
  /** Shape [batch]. */
  readonly batch: string;
  /** [batch], INT32: the last place of every row, padding counted. */
  readonly lastPlace: string;
  /** Length of past and present, INT32 without dimensions. */
  readonly total: string;
  /** [batch, 1, sequence, total], in the internal type: what is added to the scores; empty for nothing. */
  readonly bias: string;
  /** Numbers of the rows of `cosines` and `sines`: [batch, sequence]. */
  readonly rows: string;
  /** [rows, headDim / 2] for each kind of layer, single precision. */
  readonly cosines: ReadonlyMap<LayerKind, string>;
  readonly sines: ReadonlyMap<LayerKind, string>;
}

/**
 * Angle per position of each pair of a head, [headDim / 2]: θ^(−2i / headDim). On full layers only the first pairs
 * turn and the exponent still has the whole head below the line ("proportional").
 */
export function inverseFrequencies(
  config: GraphContext["config"],
  { kind, headDim }: Pick<LayerConfig, "kind" | "headDim">,
): Float32Array {
  const pairs = headDim / 2;
  const turning = kind === "full" ? Math.floor(config.partialRotaryFactor * pairs) : pairs;
  const theta = config.ropeTheta[kind];
  return Float32Array.from({ length: pairs }, (_, i) => (i < turning ? theta ** ((-2 * i) / headDim) : 0));
}

/**
 * Computes what all layers share. Padding, on either side, is hidden by a bias; position ids do nothing but rotate.
 *
 * @param embeds [batch, sequence, hidden]
 * @param mask [batch, total], INT64
 * @param positions [batch, sequence], INT64
 */
export function sequence(ctx: GraphContext, embeds: string, mask: string, positions: string): Sequence {
  const { builder, options } = ctx;
  const shape = builder.add("Shape", "sequence.shape", [embeds], { start: attr.int(0), end: attr.int(2) });
  const batch = builder.add("Shape", "sequence.batch", [embeds], { start: attr.int(0), end: attr.int(1) });
  const outer = builder.add("Concat", "sequence.outer", [shape, builder.integers([-1])], {
    axis: attr.int(0),
  });
  const width = builder.add("Shape", "sequence.width", [mask], { start: attr.int(1), end: attr.int(2) });
  const total = builder.cast(
    "sequence.total",
    builder.add("Squeeze", "sequence.total.wide", [width]),
    "INT32",
  );
  const last = builder.add("Sub", "sequence.last", [width, builder.integers([1])]);
  const lastPlace = builder.cast(
    "sequence.last_place",
    builder.add("Expand", "sequence.last_place.wide", [last, batch]),
    "INT32",
  );
  return {
    outer,
    batch,
    lastPlace,
    total,
    bias: bias(ctx, mask, shape, width, MASKED[options.internal]),
    ...anglesOf(ctx, positions, shape),
  };
}

/**
 * The same for whole windows without padding or past: nothing is added to the scores, and all rows turn alike.
 *
 * @param states [batch, sequence, hidden]
 */
export function windowSequence(ctx: GraphContext, states: string): Sequence {
  const { builder } = ctx;
  const shape = builder.add("Shape", "sequence.shape", [states], { start: attr.int(0), end: attr.int(2) });
  const batch = builder.add("Shape", "sequence.batch", [states], { start: attr.int(0), end: attr.int(1) });
  const width = builder.add("Shape", "sequence.width", [states], { start: attr.int(1), end: attr.int(2) });
  const outer = builder.add("Concat", "sequence.outer", [shape, builder.integers([-1])], {
    axis: attr.int(0),
  });
  const length = builder.add("Squeeze", "sequence.total.wide", [width]);
  const last = builder.add("Sub", "sequence.last", [width, builder.integers([1])]);
  const places = builder.add("Range", "rotary.range", [builder.integer(0), length, builder.integer(1)]);
  const numbers = builder.add("Unsqueeze", "rotary.positions", [places, builder.integers([1])]);
  return {
    outer,
    batch,
    lastPlace: builder.cast(
      "sequence.last_place",
      builder.add("Expand", "sequence.last_place.wide", [last, batch]),
      "INT32",
    ),
    total: builder.cast("sequence.total", length, "INT32"),
    bias: "",
    rows: builder.add("Expand", "rotary.rows", [places, shape]),
    ...angles(ctx, builder.cast("rotary.positions.float", numbers, "FLOAT")),
  };
}

function bias(ctx: GraphContext, mask: string, shape: string, width: string, masked: number): string {
  const { builder } = ctx;
  const real = builder.cast("sequence.real", mask, "FLOAT");
  const missing = builder.add("Sub", "sequence.missing", [builder.number(1), real]);
  const added = builder.add("Mul", "sequence.added", [missing, builder.number(masked)]);
  const planes = builder.add("Unsqueeze", "sequence.planes", [added, builder.integers([1, 2])]);
  const steps = builder.add("Gather", "sequence.steps", [shape, builder.integers([1])], {
    axis: attr.int(0),
  });
  const rows = builder.add("Gather", "sequence.count", [shape, builder.integers([0])], { axis: attr.int(0) });
  const full = builder.add("Concat", "sequence.bias.shape", [rows, builder.integers([1]), steps, width], {
    axis: attr.int(0),
  });
  const expanded = builder.add("Expand", "sequence.bias.float", [planes, full]);
  return ctx.toInternal("sequence.bias", expanded);
}

function anglesOf(
  ctx: GraphContext,
  positions: string,
  shape: string,
): Pick<Sequence, "rows" | "cosines" | "sines"> {
  const { builder } = ctx;
  const flat = builder.add("Reshape", "rotary.positions", [positions, builder.integers([-1, 1])]);
  const numbers = builder.cast("rotary.positions.float", flat, "FLOAT");
  const count = builder.add("ReduceProd", "rotary.count", [shape], { keepdims: attr.int(0) });
  const range = builder.add("Range", "rotary.range", [builder.integer(0), count, builder.integer(1)]);
  return { rows: builder.add("Reshape", "rotary.rows", [range, shape]), ...angles(ctx, numbers) };
}

/** @param numbers [rows, 1], single precision: positions */
function angles(ctx: GraphContext, numbers: string): Pick<Sequence, "cosines" | "sines"> {
  const { builder, config } = ctx;
  const cosines = new Map<LayerKind, string>();
  const sines = new Map<LayerKind, string>();
  for (const layer of config.layers) {
    const { kind } = layer;
    if (cosines.has(kind)) continue;
    const frequencies = builder.numbers(`rotary.${kind}.frequencies`, inverseFrequencies(config, layer));
    const angle = builder.add("Mul", `rotary.${kind}.angles`, [numbers, frequencies]);
    cosines.set(kind, builder.add("Cos", `rotary.${kind}.cosines`, [angle]));
    sines.set(kind, builder.add("Sin", `rotary.${kind}.sines`, [angle]));
  }
  return { cosines, sines };
}
