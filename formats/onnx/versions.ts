import { OnnxError } from "./errors.js";

/** IR version that each set of operators came with. ONNX Runtime 1.30 loads these and no later ones. */
const IR_OF_OPSET: ReadonlyMap<number, number> = new Map([
  [21, 10],
  [22, 10],
  [23, 11],
  [24, 12],
  [25, 13],
  [26, 13],
]);

/** The sets of operators that are read and written. 4-bit types need 21, 2-bit types 25. */
export const OPSETS: readonly number[] = [...IR_OF_OPSET.keys()];

const OLDEST_IR = Math.min(...IR_OF_OPSET.values());
const NEWEST_IR = Math.max(...IR_OF_OPSET.values());

/** Domain of the operators that ONNX Runtime adds. */
export const MICROSOFT_DOMAIN = "com.microsoft";

/** Whether a domain is that of ONNX itself, which has two names. */
export function isOnnxDomain(domain: string): boolean {
  return domain === "" || domain === "ai.onnx";
}

/**
 * The IR version to write for a set of operators.
 *
 * @throws OnnxError when the set is not one of `OPSETS`
 */
export function irForOpset(opset: number): number {
  const ir = IR_OF_OPSET.get(opset);
  if (ir !== undefined) return ir;
  throw new OnnxError(
    "onnx-opset",
    `Opset ${opset} is asked for, expected ${OPSETS[0]} to ${OPSETS.at(-1)}.`,
  );
}

/** Whether the IR version is one that came with one of `OPSETS`. */
export function isIrVersion(ir: number): boolean {
  return ir >= OLDEST_IR && ir <= NEWEST_IR;
}

/**
 * Checks the versions of a model that was read.
 *
 * @param file names the model in messages
 * @throws OnnxError when it is older or newer than what is supported
 */
export function checkVersions(file: string, ir: number, opset: number): void {
  if (!isIrVersion(ir)) {
    throw new OnnxError(
      "onnx-ir",
      `${file}: the IR version is ${ir}, expected ${OLDEST_IR} to ${NEWEST_IR}.`,
      {
        advice: "Convert the model with onnx.version_converter, or export it again.",
      },
    );
  }
  if (!IR_OF_OPSET.has(opset)) {
    throw new OnnxError(
      "onnx-opset",
      `${file}: the opset is ${opset}, expected ${OPSETS[0]} to ${OPSETS.at(-1)}.`,
      {
        advice: "Convert the model with onnx.version_converter, or export it again.",
      },
    );
  }
}
