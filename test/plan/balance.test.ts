import { expect, it } from "vitest";
import { foldsOf, type FoldTensor } from "../../src/gemma4/folds.js";
import { balanceTensors, factorsHash, type TensorFactors } from "../../src/plan/balance.js";

interface Tensor extends FoldTensor {
  readonly importance?: Float32Array<SharedArrayBuffer>;
  readonly factors?: TensorFactors;
}

const tensors: readonly Tensor[] = [
  { name: "blk.0.pre_ffw_norm_2.weight", ne: [4] },
  { name: "blk.0.ffn_gate_up_exps.weight", ne: [4, 6, 2] },
  { name: "blk.0.ffn_down_exps.weight", ne: [3, 4, 2] },
];

function shared(values: readonly number[]): Float32Array<SharedArrayBuffer> {
  const floats = new Float32Array(new SharedArrayBuffer(4 * values.length));
  floats.set(values);
  return floats;
}

const [norm, up] = foldsOf(tensors);
const folded = [
  { fold: norm!, exponents: Int8Array.of(1, 0, -2, 3) },
  { fold: up!, exponents: Int8Array.of(1, 0, 0, 0, -1, 2) },
];

it("gives every side of a stack of experts its own factors", () => {
  const [vector, gateUp, down] = balanceTensors(tensors, folded, ({ name }) => name);
  expect(vector).toMatchObject({ factors: { columns: shared([0.5, 1, 4, 0.125]) } });
  expect(vector?.factors?.rows).toBeUndefined();
  expect(gateUp?.factors?.columns).toEqual(shared([2, 1, 0.25, 8, 2, 1, 0.25, 8]));
  // Three rows of the gate, then three of up, for each expert.
  expect(gateUp?.factors?.rows).toEqual(shared([1, 1, 1, 0.5, 1, 1, 1, 1, 1, 1, 2, 0.25]));
  expect(down?.factors).toEqual({ columns: shared([2, 1, 1, 1, 0.5, 4]) });
});

it("divides an importance by the squares of its columns' factors, and touches no other", () => {
  const weighed = tensors.map((tensor, index) => ({
    ...tensor,
    ...(index === 2 ? { importance: shared([8, 8, 8, 8, 8, 8]) } : {}),
  }));
  const [, , down] = balanceTensors(weighed, folded, ({ name }) => name);
  expect(down?.importance).toEqual(shared([2, 8, 8, 8, 32, 0.5]));
  expect(weighed[2]?.importance).toEqual(shared([8, 8, 8, 8, 8, 8]));
  const other: Tensor = { name: "output.weight", ne: [1], importance: shared([1]) };
  expect(balanceTensors([other], folded, ({ name }) => name)[0]).toBe(other);
});

it("has another hash for columns than for rows", () => {
  const factors = shared([1, 2]);
  expect(factorsHash({ columns: factors })).not.toBe(factorsHash({ rows: factors }));
  expect(factorsHash({ columns: factors })).toBe(factorsHash({ columns: shared([1, 2]) }));
});
