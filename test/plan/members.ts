import { rowBytes } from "../../src/blocks/table.js";
import type { BlockTypeName } from "../../src/blocks/types.js";
import { parseConfig } from "../../src/gemma4/config.js";
import { ropeFrequencies } from "../../src/gemma4/gguf/tensors.js";
import type { Gemma4Config } from "../../src/gemma4/types.js";
import { listWeights } from "../../src/gemma4/weights.js";
import type { Candidate } from "../../src/plan/assign.js";
import { memberConfig, type MemberName } from "../support/members.js";

export function configOf(member: MemberName): Gemma4Config {
  return parseConfig(memberConfig(member), "config.json");
}

/** Every tensor of a member's BF16 GGUF, in the order of the list of weights. */
export function candidatesOf(config: Gemma4Config): Candidate[] {
  const rope = ropeFrequencies(config);
  return [
    { name: rope.name, ne: rope.ne, kept: "F32" },
    ...listWeights(config).map(({ gguf, shape }): Candidate => ({
      name: gguf,
      ne: shape.toReversed(),
      kept: shape.length === 1 || gguf.endsWith("ffn_gate_inp.weight") ? "F32" : "BF16",
    })),
  ];
}

export function factsOf(config: Gemma4Config, importance: boolean) {
  return {
    layers: config.layers.length,
    experts: config.experts?.count ?? 0,
    headsPerKey: Math.floor(config.heads / config.kvHeads),
    importance,
  };
}

/** `Q4_0 315, Q6_K 2 · 3344341132`: tensors of each quantized type by name, then the bytes of all tensors. */
export function summary(candidates: readonly Candidate[], types: readonly BlockTypeName[]): string {
  const counts = new Map<string, number>();
  let bytes = 0;
  for (const [index, { ne }] of candidates.entries()) {
    const type = types[index] ?? "F32";
    bytes += rowBytes(
      type,
      ne.reduce((product, size) => product * size, 1),
    );
    if (type !== "F32" && type !== "BF16") counts.set(type, (counts.get(type) ?? 0) + 1);
  }
  const list = [...counts]
    .toSorted(([a], [b]) => (a < b ? -1 : 1))
    .map(([type, count]) => `${type} ${count}`);
  return `${list.join(", ")} · ${bytes}`;
}
