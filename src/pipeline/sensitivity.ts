import { join } from "node:path";
import { partsToRound, type Part } from "../../calibration/allocation/parts.js";
import { SensitivityFile } from "../../calibration/allocation/sensitivity.js";
import { fits, type RoundedType, roundedType, USUAL_TYPES } from "../../calibration/allocation/types.js";
import {
  type Calibrated,
  checkpointParts,
  openCalibrated,
  openCheckpointFolder,
  withScratch,
} from "./calibrated.js";
import type { Reporter } from "./progress.js";
import type { CheckpointSource } from "./source.js";
import { hashText } from "./text-identity.js";

/** Windows that are run for what is measured. */
const WINDOWS = 4;
const CONTEXT = 512;

export interface SensitivityRequest {
  /** Folder of a checkpoint. */
  readonly source: string;
  /** Folder of its statistics. */
  readonly statistics: string;
  /** Names of types; the usual ones of both formats when left out. */
  readonly types: readonly string[] | undefined;
  /** Text for what is measured rather than derived; the evaluation set when left out. */
  readonly text: string | undefined;
  readonly threads: number;
  /** Ceiling of working memory in bytes. */
  readonly memory: number;
}

/** A type and what rounding everything to it is estimated to cost. */
interface TypeCost {
  readonly type: string;
  /** Weights that can have it. */
  readonly weights: number;
  /** Sum over these, in nats a token. */
  readonly kld: number;
}

/** What `measure --json` prints. */
export interface SensitivityReport {
  readonly file: string;
  readonly types: readonly TypeCost[];
  readonly weights: readonly {
    readonly name: string;
    /** Whether the numbers come from gradients, or from one measurement of all weights of its group. */
    readonly by: "gradients" | "measurement";
    /** In nats a token, by type. */
    readonly kld: Readonly<Record<string, number>>;
  }[];
}

/** Where the numbers for statistics lie. */
export async function openSensitivity({ folder, inputs, curvature }: Calibrated): Promise<SensitivityFile> {
  const { SAMPLE_VALUES } = await import("../../calibration/allocation/measure.js");
  return SensitivityFile.open(join(folder, "sensitivity.json"), {
    headers: [inputs.header, ...(curvature === null ? [] : [curvature.header])],
    sampled: SAMPLE_VALUES,
  });
}

/** Types by their names, each once. @throws AllocationError `unknown-type` */
export function typesOf(names: readonly string[] | undefined): RoundedType[] {
  const all = (names ?? Object.values(USUAL_TYPES).flat()).map((name) => roundedType(name));
  return [...new Map(all.map((type) => [type.name, type])).values()];
}

/** Whether a part can be rounded to a type. */
export function takes({ weight, onnxOnly }: Part, type: RoundedType): boolean {
  return fits(type, weight.shape.at(-1)!) && !(onnxOnly && type.format === "gguf");
}

/**
 * Estimates what rounding each weight to each type costs and keeps it beside the statistics: see `measureSensitivity`.
 *
 * @throws LapidaryError of any room; the signal's reason after an abort
 */
export async function measureTypes(
  request: SensitivityRequest,
  reporter: Reporter,
  signal: AbortSignal,
): Promise<SensitivityReport> {
  const types = typesOf(request.types);
  const source = await openCheckpointFolder(request.source);
  const calibrated = await openCalibrated(request.statistics, source);
  const file = await openSensitivity(calibrated);
  const { measureSensitivity } = await import("../../calibration/allocation/measure.js");
  const { startOnnxEngine } = await import("../engines/onnx/engine.js");
  // A text that cannot be read should not cost an hour of work first.
  await hashText(request.text);
  const engine = await startOnnxEngine();
  reporter.start("sensitivity");
  try {
    await withScratch(async (scratch) =>
      measureSensitivity({
        engine,
        checkpoint: await checkpointParts(source),
        ...calibrated,
        types,
        file,
        windows: () => windowsOf(source, request),
        threads: request.threads,
        scratch,
        stateMemory: request.memory / 4,
        logitMemory: request.memory / 2,
        signal,
        onProgress: (done, total) => reporter.progress({ done, total, unit: "runs" }),
      }),
    );
  } finally {
    await engine.close();
  }
  reporter.finish("estimated");
  return reportOf(source, file, types);
}

function windowsOf(source: CheckpointSource, { text, threads }: SensitivityRequest): Promise<Int32Array[]> {
  const options = { text, mode: "auto", context: CONTEXT, chunks: WINDOWS, threads } as const;
  return import("./text-windows.js").then(({ textWindows }) => textWindows(source, options));
}

function reportOf(
  { config, bound }: CheckpointSource,
  file: SensitivityFile,
  types: readonly RoundedType[],
): SensitivityReport {
  const parts = partsToRound(config, bound.weights);
  const lossOf = (part: Part, type: RoundedType): number => file.loss(part.weight.name, type.name) ?? 0;
  return {
    file: file.path,
    types: types.map((type) => {
      const own = parts.filter((part) => takes(part, type));
      return {
        type: type.name,
        weights: own.length,
        kld: own.reduce((sum, part) => sum + lossOf(part, type), 0),
      };
    }),
    weights: parts.map((part) => ({
      name: part.weight.name,
      by: file.groupOf(part.weight.name) === null ? "gradients" : "measurement",
      kld: Object.fromEntries(
        types.filter((type) => takes(part, type)).map((type) => [type.name, lossOf(part, type)]),
      ),
    })),
  };
}
