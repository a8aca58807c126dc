import { MAX_LOCATION_BYTES } from "./limits.js";

/**
 * What is wrong with the path of a data file, if anything. It comes from outside and is opened beside the graph,
 * so nothing in it may lead elsewhere: no root, no way up, no drive or stream (colon), no control characters.
 */
export function locationObjection(location: string): string | undefined {
  if (location === "") return "is empty";
  if (Buffer.byteLength(location) > MAX_LOCATION_BYTES) return `is longer than ${MAX_LOCATION_BYTES} bytes`;
  if (/[\\:\p{Cc}\p{Cs}]/u.test(location)) return "holds a backslash, a colon or a control character";
  if (location.startsWith("/")) return "is an absolute path";
  const steps = location.split("/");
  if (steps.includes("..")) return "leads out of the folder of the graph";
  if (steps.at(-1) === "" || steps.at(-1) === ".") return "names a folder";
  return undefined;
}

/** Whether a name is that of a file in the folder of the graph itself. */
export function isPlainName(name: string): boolean {
  return !name.includes("/") && locationObjection(name) === undefined;
}
