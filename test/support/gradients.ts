import { InferenceSession, Tensor } from "onnxruntime-node";
import { encodeModel } from "../../formats/onnx/codec.js";
import { gradientOf, type GradientProbe, HEAD, laterGradientOf } from "../../src/gemma4/graph/backward.js";
import {
  checkpointGradient,
  type CheckpointParts,
  checkpointStep,
  type StepGraph,
} from "../../src/gemma4/graph/files.js";
import { isShared, sharedNames, sourceLayer, STEP } from "../../src/gemma4/graph/steps.js";

type Values = Record<string, Tensor>;

/** Runs a graph once with those of the values that it reads. */
export async function run({ model, folder }: StepGraph, feeds: Values): Promise<Values> {
  const session = await InferenceSession.create(await encodeModel(model), {
    logSeverityLevel: 3,
    intraOpNumThreads: 1,
    extra: { session: { model_external_initializers_file_folder_path: folder } },
  });
  const wanted = session.inputNames.map((name) => [name, feeds[name]!]);
  const found = await session.run(Object.fromEntries(wanted) as Values);
  await session.release();
  return found;
}

/**
 * Goes through a model and back with the gradients of −Σ log p(token) over all tokens but the first.
 *
 * @returns what the probe gave of all steps, by name
 */
export async function goBack(
  parts: CheckpointParts,
  tokens: Int32Array,
  probe: GradientProbe,
): Promise<Map<string, Tensor>> {
  const { config } = parts;
  const { hidden } = config;
  const ids = new Tensor("int64", BigInt64Array.from(tokens, BigInt), [1, tokens.length]);
  const first = await run(await checkpointStep(parts, "embedding", null, new Map()), { [STEP.ids]: ids });
  const states: Tensor[] = [first[STEP.next]!];
  const shared: Values = {};
  for (const layer of config.layers) {
    const step = await checkpointStep(parts, layer, null, new Map());
    const found = await run(step, { [STEP.ids]: ids, [STEP.states]: states.at(-1)!, ...shared });
    states.push(found[STEP.next]!);
    if (!isShared(config, layer)) continue;
    for (const name of Object.values(sharedNames(layer))) shared[name] = found[name]!;
  }
  const noted = new Map<string, Tensor>();
  const note = (found: Values): void => {
    for (const [name, tensor] of Object.entries(found)) {
      if (!name.endsWith(gradientOf(""))) noted.set(name, tensor);
    }
  };
  const count = tokens.length - 1;
  const last = (states.pop()!.data as Float32Array).slice(0, count * hidden);
  const head = await run(await checkpointGradient(parts, "head", "given", probe), {
    [STEP.states]: new Tensor("float32", last, [1, count, hidden]),
    [HEAD.labels]: new Tensor("int64", BigInt64Array.from(tokens.subarray(1), BigInt), [1, count]),
  });
  note(head);
  const whole = new Float32Array(tokens.length * hidden);
  whole.set(head[gradientOf(STEP.states)]!.data as Float32Array);
  let later: Tensor = new Tensor("float32", whole, [1, tokens.length, hidden]);
  const ofShared: Values = {};
  for (const [name, { dims, size }] of Object.entries(shared)) {
    ofShared[laterGradientOf(name)] = new Tensor("float32", new Float32Array(size), dims);
  }
  for (const layer of config.layers.toReversed()) {
    const found = await run(await checkpointGradient(parts, layer, "given", probe), {
      [STEP.ids]: ids,
      [STEP.states]: states.pop()!,
      [laterGradientOf(STEP.next)]: later,
      ...shared,
      ...ofShared,
    });
    note(found);
    later = found[gradientOf(STEP.states)]!;
    const source = sourceLayer(config, layer);
    if (source === null) continue;
    for (const name of Object.values(sharedNames(source))) {
      ofShared[laterGradientOf(name)] = found[gradientOf(name)]!;
    }
  }
  return noted;
}
