import { describe, expect, it } from "vitest";
import { exponentsOf, type FoldedChannels, foldsOf } from "../../src/gemma4/folds.js";
import { ggmlShape } from "../../src/gemma4/gguf/tensors.js";
import { listWeights } from "../../src/gemma4/weights.js";
import { type CheckpointKind, makeCheckpoint } from "../support/checkpoints.js";
import { scratchFolder } from "../support/convert.js";
import { forward } from "../support/forward/forward.js";
import { readTextModel, type TextModel, withWeights } from "../support/forward/model.js";
import { spikyCheckpoint } from "../support/spiky.js";
import { randomTokens, relativeError, trainedSpread } from "../support/text-models.js";
import { randomFrom } from "../support/weights.js";

const tensorsOf = ({ config }: TextModel) =>
  listWeights(config)
    .filter(({ unused }) => !unused)
    .map(({ gguf, shape, name }) => ({ name: gguf, ne: ggmlShape(shape), own: name }));

/** The model with the channels of folds scaled. */
function folded(model: TextModel, choice: readonly FoldedChannels[]): TextModel {
  const exponents = exponentsOf(choice);
  const values = new Map<string, Float32Array>();
  for (const { name, ne, own } of tensorsOf(model)) {
    const { columns, rows } = exponents.get(name) ?? {};
    const row = ne[0] ?? 1;
    const perMatrix = row * (ne[1] ?? 1);
    if (columns === undefined && rows === undefined) continue;
    values.set(
      own,
      (model.weights.get(own) as Float32Array).map((value, index) => {
        const column = Math.floor(index / perMatrix) * row + (index % row);
        return value * 2 ** ((columns?.[column] ?? 0) + (rows?.[Math.floor(index / row)] ?? 0));
      }),
    );
  }
  return withWeights(model, values);
}

describe.each<[CheckpointKind, number]>([
  // Two norms and up in each layer; in a layer with experts a norm and a stack more.
  ["e", 12],
  ["dense", 12],
  ["moe", 10],
])("folds of a miniature: %s", (kind, count) => {
  const folder = scratchFolder();
  const ready = makeCheckpoint(folder, { kind, seed: 7, spread: trainedSpread, dropUnused: true });
  const tokens = randomTokens(4, 5);

  it("change nothing of what the model computes, to the last bit", async () => {
    await ready;
    const model = await readTextModel(folder);
    const folds = foldsOf(tensorsOf(model));
    expect(folds).toHaveLength(count);
    const random = randomFrom(11);
    const choice = folds.map((fold) => ({
      fold,
      exponents: Int8Array.from({ length: fold.channels }, () => Math.floor(random() * 9) - 4),
    }));
    const expected = forward(model, tokens);
    expect(relativeError(forward(folded(model, choice), tokens), expected)).toBe(0);
    // The last of them alone is seen when one of its tensors is left out.
    const [last] = choice.slice(-1);
    const half = { ...last!, fold: { ...last!.fold, parts: last!.fold.parts.slice(1) } };
    expect(relativeError(forward(folded(model, [half]), tokens), expected)).toBeGreaterThan(1e-4);
  });

  it("are those that a checkpoint which is hard to round was made with", async () => {
    await ready;
    const spiky = scratchFolder();
    await spikyCheckpoint(folder, spiky, 2);
    const model = await readTextModel(folder);
    const planted = await readTextModel(spiky);
    const down = "layers.0.mlp.down_proj.weight";
    expect(relativeError(planted.weights.get(down)!, model.weights.get(down)!)).toBeGreaterThan(1);
    expect(relativeError(forward(planted, tokens), forward(model, tokens))).toBe(0);
  });
});

it("has no fold of a layer with a tensor that it does not know, or of other shapes", () => {
  const layer = (extra: readonly { name: string; ne: readonly number[] }[], width = 8) => [
    { name: "blk.0.ffn_norm.weight", ne: [8] },
    { name: "blk.0.ffn_gate.weight", ne: [8, 16] },
    { name: "blk.0.ffn_up.weight", ne: [width, 16] },
    { name: "blk.0.ffn_down.weight", ne: [16, 8] },
    ...extra,
  ];
  const names = (tensors: Parameters<typeof foldsOf>[0]) => foldsOf(tensors).map(({ name }) => name);
  expect(names(layer([]))).toEqual(["blk.0.ffn_norm.weight", "blk.0.ffn_up.weight"]);
  expect(names(layer([{ name: "blk.0.ffn_other.weight", ne: [8, 4] }]))).toEqual([]);
  expect(names(layer([], 9))).toEqual(["blk.0.ffn_up.weight"]);
  expect(names(layer([]).filter(({ name }) => !name.includes("down")))).toEqual(["blk.0.ffn_norm.weight"]);
});
