import { attr, graph, model, valueInfo } from "../../formats/onnx/build.js";
import type { OnnxEngine, TensorValue } from "../../src/engines/onnx/types.js";
import { GraphBuilder } from "../../src/gemma4/graph/builder.js";
import { encodeGraph } from "../../src/gemma4/graph/files.js";
import { GRAPH_OPSET } from "../../src/gemma4/graph/graphs.js";
import type { Curvature } from "../statistics/curvature.js";
import type { Moments } from "../statistics/types.js";

/** A block on the diagonal of moments: its place, and its values, [width, width]. */
interface Block {
  readonly first: number;
  readonly width: number;
  readonly values: Float32Array;
}

/** Second moments of inputs, or their diagonal alone. */
export type InputMoments = Pick<Curvature, "inputs" | "inputSquares">;

/** Forms of errors with second moments, by ONNX Runtime: with 6,144 columns a product of them takes billions of steps. */
export class Quadratic {
  readonly #engine: OnnxEngine;
  readonly #rows: number;
  readonly #whole: number;

  private constructor(engine: OnnxEngine, rows: number, whole: number) {
    this.#engine = engine;
    this.#rows = rows;
    this.#whole = whole;
  }

  /** @throws EngineError */
  static async start(engine: OnnxEngine, threads: number): Promise<Quadratic> {
    const open = async (name: "rows" | "whole"): Promise<number> => {
      const { session } = await engine.open({ model: await encodeGraph(form(name)), name, threads });
      return session;
    };
    return new Quadratic(engine, await open("rows"), await open("whole"));
  }

  async close(): Promise<void> {
    await this.#engine.close(this.#rows);
    await this.#engine.close(this.#whole);
  }

  /**
   * e · H · eᵀ of each row e of the errors, of the blocks of H or of its diagonal.
   *
   * @param error [rows, columns], row by row
   */
  async rows(error: Float32Array, { inputs, inputSquares }: InputMoments): Promise<Float64Array> {
    const columns = inputSquares.length;
    const energies = new Float64Array(error.length / columns);
    if (inputs === null) {
      for (const [index, value] of error.entries()) {
        energies[Math.floor(index / columns)]! += value ** 2 * inputSquares[index % columns]!;
      }
      return energies;
    }
    for (const block of blocksOf(inputs)) {
      const e = cut(error, columns, { firstRow: 0, rows: energies.length, block });
      const { energy } = await this.#engine.run(this.#rows, {
        feeds: { e, h: square(block) },
        fetch: ["energy"],
      });
      for (const [row, value] of floats(energy).entries()) energies[row]! += value;
    }
    return energies;
  }

  /**
   * tr(G · E · H · Eᵀ), of the blocks of G and H.
   *
   * @param error E, [rows, columns], row by row
   */
  async whole(error: Float32Array, gradients: Moments, inputs: Moments): Promise<number> {
    let sum = 0;
    for (const left of blocksOf(gradients)) {
      for (const block of blocksOf(inputs)) {
        const e = cut(error, inputs.columns, { firstRow: left.first, rows: left.width, block });
        const feeds = { e, h: square(block), g: square(left) };
        const { energy } = await this.#engine.run(this.#whole, { feeds, fetch: ["energy"] });
        for (const value of floats(energy)) sum += value;
      }
    }
    return sum;
  }
}

/** Of e [rows, columns], h [columns, columns] and for the whole form g [rows, rows] the energy of each row. */
function form(name: "rows" | "whole") {
  const builder = new GraphBuilder();
  const right = builder.add("MatMul", "right", ["e", "h"]);
  const product = name === "rows" ? right : builder.add("MatMul", "left", ["g", right]);
  builder.add(
    "ReduceSum",
    "energy",
    [builder.add("Mul", "energies", [product, "e"]), builder.integers([1])],
    {
      keepdims: attr.int(0),
    },
  );
  const whole = graph(name, builder.nodes, {
    inputs: [
      valueInfo("e", "FLOAT", ["rows", "columns"]),
      valueInfo("h", "FLOAT", ["columns", "columns"]),
      ...(name === "whole" ? [valueInfo("g", "FLOAT", ["rows", "rows"])] : []),
    ],
    outputs: [valueInfo("energy", "FLOAT", ["rows"])],
    initializers: builder.constants,
  });
  return model(whole, { opset: GRAPH_OPSET });
}

function blocksOf({ columns, blockWidth, values }: Moments): Block[] {
  const blocks: Block[] = [];
  let at = 0;
  for (let first = 0; first < columns; first += blockWidth) {
    const width = Math.min(blockWidth, columns - first);
    blocks.push({ first, width, values: values.subarray(at, at + width ** 2) });
    at += width ** 2;
  }
  return blocks;
}

function square({ width, values }: Block): TensorValue {
  return { type: "float32", dims: [width, width], data: values };
}

/** Some rows of a matrix, and those columns of them that a block is of. */
function cut(
  values: Float32Array,
  columns: number,
  { firstRow, rows, block }: { readonly firstRow: number; readonly rows: number; readonly block: Block },
): TensorValue {
  const { first, width } = block;
  const dims = [rows, width];
  if (width === columns) {
    return { type: "float32", dims, data: values.subarray(firstRow * columns, (firstRow + rows) * columns) };
  }
  const data = new Float32Array(rows * width);
  for (let row = 0; row < rows; row++) {
    const from = (firstRow + row) * columns + first;
    data.set(values.subarray(from, from + width), row * width);
  }
  return { type: "float32", dims, data };
}

function floats(value: TensorValue | undefined): Float32Array {
  if (value?.type !== "float32") throw new RangeError("the run gave no floats");
  return value.data;
}
