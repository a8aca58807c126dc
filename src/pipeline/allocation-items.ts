import type { Part } from "../../calibration/allocation/parts.js";
import type { SensitivityFile } from "../../calibration/allocation/sensitivity.js";
import type { Choice, Item } from "../../calibration/allocation/solve.js";
import { bytesIn, type RoundedType } from "../../calibration/allocation/types.js";
import { parameterCount } from "../gemma4/weights.js";
import { PipelineError } from "./errors.js";
import { takes } from "./sensitivity.js";

/** Tensors of a GGUF file begin at multiples of this. */
const ALIGNMENT = 32;

/**
 * The weights of a format with their choices. In GGUF the table of a tied model is the output matrix too: its bytes count
 * once, what it costs in both places.
 *
 * @throws PipelineError `not-measured` where a type was not measured, `no-type` for a weight that none of the types fits
 */
export function itemsOf(
  parts: readonly Part[],
  file: SensitivityFile,
  types: readonly RoundedType[],
  format: RoundedType["format"],
): Item[] {
  const own = types.filter((type) => type.format === format);
  const head = parts.find(({ kind }) => kind === "head");
  const table = parts.find(({ weight }) => weight.role === "embedding");
  const tied = format === "gguf" && head?.stored === false;
  return parts
    .filter((part) => !(format === "gguf" && part.onnxOnly) && !(tied && part === head))
    .map((part) => {
      const users = tied && part === table ? [part, head] : [part];
      const choices = own.flatMap((type) => choiceOf(users, file, type));
      if (choices.length > 0) return { name: part.weight.name, choices };
      throw new PipelineError(
        "no-type",
        `${part.weight.name}: rows of ${part.weight.shape.at(-1)} values fit none of ${own.map(({ name }) => name).join(", ") || `the types, of which none is for ${format}`}.`,
        { exitCode: 2, advice: "Allow a type with blocks of 32 values, such as Q4_0 or Q8_0." },
      );
    });
}

function choiceOf(users: readonly Part[], file: SensitivityFile, type: RoundedType): Choice[] {
  const { weight } = users[0]!;
  if (!takes(users[0]!, type)) return [];
  const row = weight.shape.at(-1)!;
  const bytes = bytesIn(type, row, parameterCount(weight) / row)!;
  const losses = users.map((part) => file.loss(part.weight.name, type.name));
  if (losses.includes(undefined)) {
    throw new PipelineError(
      "not-measured",
      `${file.path}: ${weight.name} was not measured as ${type.name}.`,
      {
        exitCode: 2,
        advice: `Run lapidary measure, with --types that have ${type.name} among them.`,
      },
    );
  }
  const padded = type.format === "gguf" ? Math.ceil(bytes / ALIGNMENT) * ALIGNMENT : bytes;
  return [{ type: type.name, bytes: padded, loss: losses.reduce<number>((sum, loss) => sum + loss!, 0) }];
}
