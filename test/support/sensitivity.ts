import { mkdtemp } from "node:fs/promises";
import { join } from "node:path";
import { walkBack } from "../../calibration/statistics/curvature.js";
import { makeStore, type StatisticsStore } from "../../calibration/statistics/store.js";
import type { StatisticsHeader } from "../../calibration/statistics/schema.js";
import { walkLayers } from "../../calibration/statistics/walk.js";
import type { OnnxEngine } from "../../src/engines/onnx/types.js";
import { hashFile } from "../../src/pipeline/hash.js";
import { scratchFolder } from "./convert.js";
import { partsOf } from "./walks.js";

/** What a calibration leaves in a folder, with gradients below `curvature`. */
export interface Calibrated {
  readonly folder: string;
  readonly inputs: StatisticsStore;
  readonly curvature: StatisticsStore;
}

/** Calibrates a checkpoint of the tests. */
export async function calibrate(
  engine: OnnxEngine,
  checkpointFolder: string,
  windows: readonly Int32Array[],
  { experts = false }: { readonly experts?: boolean } = {},
): Promise<Calibrated> {
  const checkpoint = await partsOf(checkpointFolder);
  const folder = await mkdtemp(join(scratchFolder(), "statistics-"));
  const scratch = await mkdtemp(join(scratchFolder(), "calibrate-"));
  const files = await Promise.all(checkpoint.shards.map(({ path }) => hashFile(path)));
  const header: StatisticsHeader = {
    checkpoint: files,
    text: {
      sha256: "0".repeat(64),
      windows: windows.length,
      tokens: windows.reduce((sum, { length }) => sum + length, 0),
    },
    method: {},
    steps: checkpoint.config.layers.length + 2,
  };
  const common = { engine, checkpoint, windows, threads: 2, scratch, stateMemory: 2 ** 30 };
  const moments = experts ? null : { memory: 2 ** 30 };
  const inputs = await makeStore(join(folder, "inputs"), header);
  for await (const step of walkLayers({ ...common, order: "parallel", moments })) await inputs.append(step);
  const curvature = await makeStore(join(folder, "gradients"), { ...header, steps: header.steps - 1 });
  const back = walkBack({ ...common, labels: "drawn", seed: 1, moments, logitMemory: 2 ** 26 });
  for await (const step of back) await curvature.append(step);
  return { folder, inputs, curvature };
}
