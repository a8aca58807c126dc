import { encode } from "../../src/blocks/encode/encode.js";
import { Kernels } from "../../src/blocks/kernels/kernels.js";
import { compileKernels } from "../../src/blocks/kernels/load.js";
import { rowBytes } from "../../src/blocks/table.js";
import type { BlockTypeName } from "../../src/blocks/types.js";
import { loadGgmlQuants } from "./ggml-quants.js";
import { firstDifference } from "./weights.js";

/** What the encoders make of one row of float32 values. */
export interface Encoded {
  /** The reference encoder's bytes. */
  readonly bytes: Uint8Array;
  /** First byte in which the kernel differs from the reference encoder, and that from ggml; −1 for none. */
  readonly differences: readonly [kernel: number, ggml: number];
}

/** All encoders that there are, for rows of up to `capacity` values; ggml's is missing on some platforms. */
export async function allEncoders(
  capacity: number,
): Promise<(type: BlockTypeName, values: Float32Array, importance?: Float32Array) => Encoded> {
  const kernels = new Kernels(await compileKernels(), capacity);
  const ggml = loadGgmlQuants();
  return (type, values, importance) => {
    const bytes = new Uint8Array(rowBytes(type, values.length));
    encode(type, values, bytes, importance);
    kernels.input.set(new Uint8Array(values.buffer, values.byteOffset, values.byteLength));
    kernels.convert("F32", type, values.length, importance);
    const theirs = ggml?.quantize(type, values, importance) ?? bytes;
    return {
      bytes,
      differences: [firstDifference(kernels.output, bytes), firstDifference(bytes, theirs)],
    };
  };
}
