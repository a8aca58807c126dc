import { join } from "node:path";
import { createGguf, planGguf } from "../../formats/gguf/write.js";
import { scratchFolder } from "./convert.js";

export interface TestTensor {
  readonly name: string;
  readonly type: string;
  readonly ne: readonly number[];
  readonly data: Uint8Array;
}

/** A GGUF of just these tensors; it goes away with the test process. */
export async function writeGguf(tensors: readonly TestTensor[]): Promise<string> {
  const layout = planGguf({
    metadata: [],
    tensors: tensors.map(({ name, type, ne }) => ({ name, type, ne })),
  });
  const path = join(scratchFolder(), "tensors.gguf");
  const output = await createGguf(path, layout);
  for (const [index, { data }] of tensors.entries())
    await output.writeTensorRange(layout.tensors[index]!, 0, data);
  await output.commit();
  return path;
}
