import type { Variant } from "../../calibration/allocation/ablate.js";
import type { Part } from "../../calibration/allocation/parts.js";
import { checkpointParts, openCheckpointFolder, withScratch } from "./calibrated.js";
import { PipelineError } from "./errors.js";
import type { Reporter } from "./progress.js";
import { takes, typesOf } from "./sensitivity.js";
import type { MeasureOptions } from "./verify.js";

/** What is rounded at a time: one weight, all of a role, or all of a layer. */
export const ABLATION_GROUPS = ["weight", "role", "layer"] as const;

type Group = (typeof ABLATION_GROUPS)[number];

export interface AblationRequest extends MeasureOptions {
  /** Folder of a checkpoint. */
  readonly source: string;
  /** Type that is rounded to. */
  readonly type: string;
  readonly by: readonly Group[];
  /** Ceiling of working memory in bytes. */
  readonly memory: number;
}

/** What rounding some weights alone costs. */
interface Ablated {
  readonly by: Group;
  /** Of the weight, the role, or the layer. */
  readonly name: string;
  readonly weights: number;
  /** Mean KL divergence to the unrounded model, in nats. */
  readonly kld: number;
  /** Share of the tokens at which the likeliest next token stays the same. */
  readonly sameTop: number;
}

/** What `ablate --json` prints. */
export interface AblationReport {
  readonly type: string;
  readonly windows: number;
  readonly tokens: number;
  /** The costliest first. */
  readonly results: readonly Ablated[];
  /** Weights whose rows are not whole blocks of the type. */
  readonly left: readonly string[];
}

interface GroupedVariant extends Variant {
  readonly by: Group;
  readonly title: string;
  readonly count: number;
}

/**
 * Rounds weights to a type, one or a group at a time with all others as they are, and measures what that does to the
 * predictions: see `ablate`. Errors are weighted by nothing.
 *
 * @throws LapidaryError of any room; the signal's reason after an abort
 */
export async function ablateCheckpoint(
  request: AblationRequest,
  reporter: Reporter,
  signal: AbortSignal,
): Promise<AblationReport> {
  const [type] = typesOf([request.type]);
  const source = await openCheckpointFolder(request.source);
  const { partsToRound } = await import("../../calibration/allocation/parts.js");
  const all = partsToRound(source.config, source.bound.weights).filter(
    ({ onnxOnly }) => !(type!.format === "gguf" && onnxOnly),
  );
  const parts = all.filter((part) => takes(part, type!));
  const variants = variantsOf(parts, request.by, type!.format === "gguf");
  if (variants.length === 0) {
    throw new PipelineError(
      "nothing-to-round",
      `${request.source}: no weight has rows of whole blocks of ${type!.name}.`,
      {
        exitCode: 2,
        advice: "Choose a type with blocks of 32 values, such as Q4_0.",
      },
    );
  }
  const { textWindows } = await import("./text-windows.js");
  const windows = await textWindows(source, request);
  const { ablate } = await import("../../calibration/allocation/ablate.js");
  const { RowRounder } = await import("../../calibration/allocation/round.js");
  const { startOnnxEngine } = await import("../engines/onnx/engine.js");
  const checkpoint = await checkpointParts(source);
  const rounder = await RowRounder.start(checkpoint);
  const engine = await startOnnxEngine();
  reporter.start(`ablate ${variants.length} variants`);
  try {
    const found = await withScratch((scratch) =>
      ablate({
        engine,
        checkpoint,
        windows,
        variants,
        write: (path, name) => {
          const { weight, kind } = parts.find((part) => part.weight.name === name)!;
          const rows = kind === "table" ? rowsOf(windows, checkpoint.padding) : undefined;
          return rounder.write(path, weight, type!, { rows });
        },
        threads: request.threads,
        scratch,
        stateMemory: request.memory / 2,
        logitMemory: request.memory / 4,
        signal,
        onProgress: (done, total) => reporter.progress({ done, total, unit: "runs" }),
      }),
    );
    reporter.finish("measured");
    const results = found.map(({ variant, kld, sameTop }) => {
      const { by, title, count } = variant as GroupedVariant;
      return { by, name: title, weights: count, kld, sameTop };
    });
    return {
      type: type!.name,
      windows: windows.length,
      tokens: windows.reduce((sum, { length }) => sum + length, 0),
      results: results.toSorted((a, b) => b.kld - a.kld || (a.name < b.name ? -1 : 1)),
      left: all.filter((part) => !parts.includes(part)).map(({ weight }) => weight.name),
    };
  } finally {
    await engine.close();
    await rounder.close();
  }
}

/** Rows of a table that a text reads. */
function rowsOf(windows: readonly Int32Array[], padding: number): number[] {
  const rows = new Set([padding, ...windows.flatMap((window) => [...window])]);
  return [...rows].toSorted((a, b) => a - b);
}

function variantsOf(parts: readonly Part[], groups: readonly Group[], gguf: boolean): GroupedVariant[] {
  const head = parts.find(({ kind, stored }) => kind === "head" && !stored);
  // In GGUF the table of a tied model is the output matrix too.
  const own = gguf ? parts.filter((part) => part !== head) : parts;
  const weightsOf = ({ weight }: Part): string[] =>
    gguf && head !== undefined && weight.role === "embedding"
      ? [weight.name, head.weight.name]
      : [weight.name];
  const keys: Readonly<Record<Group, (part: Part) => string | null>> = {
    weight: ({ weight }) => weight.name,
    role: ({ weight }) => weight.role,
    layer: ({ weight }) => (weight.layer === null ? null : `layer ${weight.layer}`),
  };
  return groups.flatMap((by) => {
    const found = new Map<string, Part[]>();
    for (const part of own) {
      const key = keys[by](part);
      if (key !== null) found.set(key, [...(found.get(key) ?? []), part]);
    }
    return [...found].map(([title, members]) => ({
      by,
      title,
      name: `${by} ${title}`,
      count: members.length,
      weights: members.flatMap((part) => weightsOf(part)),
    }));
  });
}
