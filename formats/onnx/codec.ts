import type { Type } from "protobufjs";
import { COPY_AGAIN, OnnxError } from "./errors.js";
import { MAX_GRAPH_BYTES } from "./limits.js";
import { fromWire, toWire } from "./messages.js";
import { ROOT, schemaDescriptor } from "./schema.js";
import type { ModelProto } from "./types.js";
import { checkWire } from "./wire.js";

let loaded: Promise<Type> | undefined;

/** protobufjs takes some 100 ms to load, so that only who touches ONNX files waits for it. */
async function modelType(): Promise<Type> {
  loaded ??= import("protobufjs/light.js").then(({ default: protobuf }) =>
    protobuf.Root.fromJSON(schemaDescriptor()).lookupType(ROOT.name),
  );
  return loaded;
}

/**
 * The bytes of a graph file.
 *
 * @throws OnnxError when a field is not one of the schema's or a value does not fit in it, when graphs are
 *   nested too deeply, and when the file would pass `MAX_GRAPH_BYTES`
 */
export async function encodeModel(model: ModelProto): Promise<Uint8Array> {
  const type = await modelType();
  const writer = type.encode(toWire(ROOT, model));
  if (writer.len > MAX_GRAPH_BYTES) {
    throw new OnnxError(
      "onnx-limit",
      `The graph would have ${writer.len} bytes, expected at most ${MAX_GRAPH_BYTES}.`,
      { advice: "Keep the weights in data files." },
    );
  }
  const bytes = writer.finish();
  return new Uint8Array(bytes.buffer, bytes.byteOffset, bytes.byteLength);
}

/**
 * The model in the bytes of a graph file. Only its encoding is checked, not what it says. Bytes of tensors are
 * views into `bytes`.
 *
 * @param file names the model in messages
 * @throws OnnxError when the bytes are not a model of the schema or pass limits.ts
 */
export async function decodeModel(bytes: Uint8Array, file: string): Promise<ModelProto> {
  checkWire(bytes, file);
  const type = await modelType();
  let message: object;
  try {
    message = type.decode(bytes);
  } catch (cause) {
    throw new OnnxError("onnx-damaged", `${file}: the file is not a protobuf message.`, {
      cause,
      advice: COPY_AGAIN,
    });
  }
  return fromWire(ROOT, message, file) as unknown as ModelProto;
}
