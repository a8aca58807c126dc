import { createHash } from "node:crypto";
import { readFileSync } from "node:fs";
import { openGguf } from "../../formats/gguf/read.js";

export interface TensorHash {
  readonly type: string;
  readonly ne: readonly number[];
  readonly sha256: string;
}

/** Every tensor of a small GGUF in one file, by name: type, shape and a hash of its bytes. */
export async function tensorHashes(path: string): Promise<Map<string, TensorHash>> {
  const bytes = readFileSync(path);
  const { tensors } = await openGguf(path);
  return new Map(
    tensors.map(({ name, type, ne, offset, byteLength }) => {
      const data = bytes.subarray(offset, offset + byteLength);
      return [name, { type, ne, sha256: createHash("sha256").update(data).digest("hex") }];
    }),
  );
}
