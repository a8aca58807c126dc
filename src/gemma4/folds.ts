/** A tensor of a text model, by its name and shape in GGUF. */
export interface FoldTensor {
  readonly name: string;
  /** Dimensions in ggml's order: fastest first. */
  readonly ne: readonly number[];
}

/** Where the channels of a fold lie in one tensor. */
export interface FoldPart {
  readonly tensor: string;
  /** A vector counts as one row: its values are columns. */
  readonly side: "columns" | "rows";
  /** Whether the channels of this tensor are multiplied by 2^exponent (1), or divided by it (-1). */
  readonly sign: 1 | -1;
  /** Factors that the side has: of columns a number for each column of each matrix of a stack. */
  readonly length: number;
  /** Place of channel 0 of each run of `every` channels, and what lies between two runs; a run may serve several places. */
  readonly first: number;
  readonly every: number;
  readonly stride: number;
}

/**
 * Channels that can be scaled without changing what the model computes: what one tensor gives out is divided
 * by a number, and where it is read it is multiplied by it. Nothing else reads those channels, and nothing but
 * products with weights lies between.
 */
export interface Fold {
  /** After the tensor that gives the channels out, such as `blk.0.attn_norm.weight`. */
  readonly name: string;
  readonly kind: "norm" | "up";
  readonly channels: number;
  readonly parts: readonly FoldPart[];
}

/** A fold with a power of two for every channel. */
export interface FoldedChannels {
  readonly fold: Fold;
  /** [channels] */
  readonly exponents: Int8Array;
}

/** Exponents of what a tensor's columns (matrix by matrix) and rows are multiplied with. */
export interface TensorExponents {
  readonly columns?: Int8Array;
  readonly rows?: Int8Array;
}

/** Norms, and all that reads them. The router has a norm and a scale of its own and reads the residual stream. */
const NORMS: readonly (readonly [norm: string, readers: readonly string[]])[] = [
  ["attn_norm.weight", ["attn_q.weight", "attn_k.weight", "attn_v.weight"]],
  ["ffn_norm.weight", ["ffn_gate.weight", "ffn_up.weight"]],
  ["pre_ffw_norm_2.weight", ["ffn_gate_up_exps.weight"]],
];

/**
 * Matrices whose rows become the columns of others: only the gate goes through the activation function, and the
 * rows of up are multiplied with it. In a stack of experts the rows of up follow those of the gate.
 */
const UPS: readonly (readonly [up: string, down: string])[] = [
  ["ffn_up.weight", "ffn_down.weight"],
  ["ffn_gate_up_exps.weight", "ffn_down_exps.weight"],
];

/** What a layer may hold for these folds to be known to be exact; another tensor may be another reader. */
const KNOWN: ReadonlySet<string> = new Set([
  ...NORMS.flatMap(([norm, readers]) => [norm, ...readers]),
  ...UPS.flat(),
  "attn_output.weight",
  "attn_q_norm.weight",
  "attn_k_norm.weight",
  "post_attention_norm.weight",
  "post_ffw_norm.weight",
  "post_ffw_norm_1.weight",
  "post_ffw_norm_2.weight",
  "layer_output_scale.weight",
  "ffn_gate_inp.weight",
  "ffn_gate_inp.scale",
  "ffn_down_exps.scale",
  "inp_gate.weight",
  "proj.weight",
  "post_norm.weight",
]);

function columnsOf({ name, ne }: FoldTensor, channels: number, sign: 1 | -1): FoldPart {
  const row = ne[0] ?? 1;
  const length = row * (ne[2] ?? 1);
  // Every matrix of a stack has the channels of a norm, and its own of what comes out of its expert.
  const stride = channels === row ? 0 : row;
  return { tensor: name, side: "columns", sign, length, first: 0, every: row, stride };
}

function normFold(norm: FoldTensor, readers: readonly FoldTensor[]): Fold | undefined {
  const channels = norm.ne[0] ?? 1;
  if (norm.ne.length !== 1 || readers.length === 0 || readers.some(({ ne }) => ne[0] !== channels))
    return undefined;
  const parts = [columnsOf(norm, channels, -1), ...readers.map((reader) => columnsOf(reader, channels, 1))];
  return { name: norm.name, kind: "norm", channels, parts };
}

function upFold(up: FoldTensor, down: FoldTensor): Fold | undefined {
  const every = down.ne[0] ?? 1;
  const matrices = down.ne[2] ?? 1;
  const rows = up.ne[1] ?? 1;
  const expected = matrices > 1 || up.ne.length === 3 ? 2 * every : every;
  if (rows !== expected || (up.ne[2] ?? 1) !== matrices) return undefined;
  const channels = every * matrices;
  return {
    name: up.name,
    kind: "up",
    channels,
    parts: [
      {
        tensor: up.name,
        side: "rows",
        sign: -1,
        length: rows * matrices,
        first: rows - every,
        every,
        stride: rows,
      },
      { tensor: down.name, side: "columns", sign: 1, length: channels, first: 0, every, stride: every },
    ],
  };
}

/**
 * The folds of a model, layer by layer. A layer that has a tensor of another name has none.
 *
 * Not among them: values to output projection (a norm without a weight lies between), queries and keys (weighted
 * norms, then rotation), and the residual stream (weighted norms after every block).
 */
export function foldsOf(tensors: readonly FoldTensor[]): Fold[] {
  const layers = new Map<string, Map<string, FoldTensor>>();
  for (const tensor of tensors) {
    const [, layer, name] = /^(blk\.\d+)\.(.+)$/.exec(tensor.name) ?? [];
    if (layer === undefined || name === undefined) continue;
    const own = layers.get(layer) ?? new Map<string, FoldTensor>();
    layers.set(layer, own.set(name, tensor));
  }
  const folds: Fold[] = [];
  for (const layer of layers.values()) {
    if ([...layer.keys()].some((name) => !KNOWN.has(name))) continue;
    for (const [norm, readers] of NORMS) {
      const vector = layer.get(norm);
      const matrices = readers.flatMap((reader) => layer.get(reader) ?? []);
      const fold = vector === undefined ? undefined : normFold(vector, matrices);
      if (fold !== undefined) folds.push(fold);
    }
    for (const [from, to] of UPS) {
      const up = layer.get(from);
      const down = layer.get(to);
      const fold = up === undefined || down === undefined ? undefined : upFold(up, down);
      if (fold !== undefined) folds.push(fold);
    }
  }
  return folds;
}

/** Exponents of all factors of a side of a tensor: zeros where the fold has no channel. */
export function partExponents(part: FoldPart, exponents: Int8Array): Int8Array {
  const { sign, length, first, every, stride } = part;
  const own = new Int8Array(length);
  for (let at = 0; at < length; at++) {
    const run = stride === 0 ? 0 : Math.floor(at / stride);
    const inRun = stride === 0 ? at % every : at - run * stride - first;
    if (inRun >= 0 && inRun < every) own[at] = sign * (exponents[run * every + inRun] ?? 0);
  }
  return own;
}

/** What each tensor of folds is multiplied with; no side of a tensor is in two folds. */
export function exponentsOf(folded: readonly FoldedChannels[]): Map<string, TensorExponents> {
  const found = new Map<string, TensorExponents>();
  for (const { fold, exponents } of folded) {
    for (const part of fold.parts) {
      const own = { [part.side]: partExponents(part, exponents) };
      found.set(part.tensor, { ...found.get(part.tensor), ...own });
    }
  }
  return found;
}
