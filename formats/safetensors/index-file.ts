import type { ByteSource } from "../source.js";
import { FETCH_AGAIN, SafetensorsError, shown } from "./errors.js";
import { isObject, type JsonBounds, parseJson } from "./json.js";
import { MAX_INDEX_BYTES, MAX_SHARD_NAME_BYTES, MAX_SHARDS, MAX_TENSORS } from "./limits.js";

/** Root and weight_map; `metadata` is free-form, so it gets some room. */
const INDEX_BOUNDS: JsonBounds = { depth: 16, containers: 65_536, keys: MAX_TENSORS, elements: 65_536 };

/**
 * The name of a shard comes from outside and is opened in the folder of the index, so nothing in it may
 * lead elsewhere: no separators, no drive or stream (colon), no control characters. A link that leaves the
 * folder is fine, the hub's cache is made of them.
 */
function isPlainName(name: string): boolean {
  return /^[^/\\:\p{Cc}\p{Cs}]+\.safetensors$/u.test(name);
}

/**
 * Reads and checks `model.safetensors.index.json`. Its `metadata` is not looked at: nothing depends on it,
 * and real files carry a wrong `total_size`.
 *
 * @returns tensors by the name of the file that should hold them, sorted by that name
 * @throws SafetensorsError when it is damaged or names files outside its folder
 */
export async function readIndex(source: ByteSource): Promise<Map<string, Set<string>>> {
  const refuse = (reason: string): never => {
    throw new SafetensorsError("safetensors-index", `${source.name}: ${reason}.`, { advice: FETCH_AGAIN });
  };
  if (source.size > MAX_INDEX_BYTES) {
    return refuse(`the index has ${source.size} bytes, expected at most ${MAX_INDEX_BYTES}`);
  }
  const bytes = new Uint8Array(source.size);
  await source.read(bytes, 0);
  const { weight_map: map } = parseJson(bytes, `${source.name}: the index`, INDEX_BOUNDS);
  if (!isObject(map)) return refuse(`weight_map is ${shown(map)}, expected an object`);
  const shards = new Map<string, Set<string>>();
  for (const [tensor, file] of Object.entries(map)) {
    if (typeof file !== "string") {
      return refuse(`weight_map gives ${shown(file)} for tensor ${shown(tensor)}, expected a file name`);
    }
    let held = shards.get(file);
    if (held === undefined) {
      if (!isPlainName(file) || Buffer.byteLength(file) > MAX_SHARD_NAME_BYTES) {
        return refuse(
          `tensor ${shown(tensor)} is in ${shown(file)}, expected a plain name of a .safetensors file`,
        );
      }
      if (shards.size === MAX_SHARDS) return refuse(`weight_map names more than ${MAX_SHARDS} files`);
      held = new Set();
      shards.set(file, held);
    }
    held.add(tensor);
  }
  if (shards.size === 0) return refuse("weight_map names no tensors");
  return new Map([...shards].toSorted(([a], [b]) => (a < b ? -1 : 1)));
}
