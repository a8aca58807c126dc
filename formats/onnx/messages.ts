import { shown } from "../errors.js";
import { OnnxError } from "./errors.js";
import { MAX_NESTING } from "./limits.js";
import { type Field, type Message, messageOf } from "./schema.js";
import type { Int64 } from "./types.js";

type Fields = Readonly<Record<string, unknown>>;

/** A 64-bit integer as protobufjs takes and gives it. */
interface Halves {
  readonly low: number;
  readonly high: number;
  readonly unsigned: boolean;
}

const INT64 = [-(2n ** 63n), 2n ** 63n - 1n] as const;
const UINT64 = [0n, 2n ** 64n - 1n] as const;

function halvesOf(value: Int64, unsigned: boolean): Halves | undefined {
  if (typeof value !== "bigint" && !Number.isSafeInteger(value)) return undefined;
  const big = BigInt(value);
  const [least, most] = unsigned ? UINT64 : INT64;
  if (big < least || big > most) return undefined;
  return {
    low: Number(BigInt.asIntN(32, big)),
    high: Number(BigInt.asIntN(32, big >> 32n)),
    unsigned,
  };
}

function fromHalves({ low, high, unsigned }: Halves): Int64 {
  const value = (unsigned ? high >>> 0 : high) * 2 ** 32 + (low >>> 0);
  if (Number.isSafeInteger(value)) return value;
  return (BigInt(unsigned ? high >>> 0 : high) << 32n) | BigInt(low >>> 0);
}

function isCount(value: unknown): boolean {
  return Number.isSafeInteger(value) && (value as number) >= 0;
}

function isFloat(value: unknown): boolean {
  return typeof value === "number" && (!Number.isFinite(value) || Number.isFinite(Math.fround(value)));
}

/** The scalar as protobufjs takes it, or undefined when it does not fit in its field. */
function scalarToWire(field: Field, value: unknown): unknown {
  switch (field.kind) {
    case "string":
      return typeof value === "string" && !/\p{Surrogate}/u.test(value) ? value : undefined;
    case "bytes":
      return value instanceof Uint8Array ? value : undefined;
    case "int32":
      return Number.isInteger(value) && (value as number) === ((value as number) | 0) ? value : undefined;
    case "size":
      return isCount(value) ? value : undefined;
    case "int64":
      return halvesOf(value as Int64, false);
    case "uint64":
      return halvesOf(value as Int64, true);
    case "float":
      return isFloat(value) ? value : undefined;
    case "double":
      return typeof value === "number" ? value : undefined;
    default:
      return undefined;
  }
}

function describe(value: unknown): string {
  if (typeof value === "bigint") return String(value);
  return typeof value === "number" ? String(value) : shown(value);
}

function valueToWire(field: Field, value: unknown, path: string, depth: number): unknown {
  const message = messageOf(field);
  if (message !== undefined) {
    if (typeof value === "object" && value !== null) return messageToWire(message, value, path, depth + 1);
  } else {
    const wire = scalarToWire(field, value);
    if (wire !== undefined) return wire;
  }
  throw new OnnxError("onnx-value", `${path} is ${describe(value)}, which does not fit in ${field.kind}.`);
}

function messageToWire(message: Message, value: object, path: string, depth: number): object {
  if (depth > MAX_NESTING) {
    throw new OnnxError(
      "onnx-limit",
      `${path.slice(0, 100)}… is nested deeper than ${MAX_NESTING} messages.`,
    );
  }
  const wire: Record<string, unknown> = {};
  for (const [name, given] of Object.entries(value) as [string, unknown][]) {
    const field = message.byName(name);
    if (field === undefined) {
      throw new OnnxError("onnx-value", `${path} has the field ${shown(name)}, which ${message.name} lacks.`);
    }
    if (given === undefined) continue;
    const here = `${path}.${name}`;
    if (!field.repeated) {
      wire[name] = valueToWire(field, given, here, depth);
    } else if (Array.isArray(given)) {
      wire[name] = given.map((each, index) => valueToWire(field, each, `${here}[${index}]`, depth));
    } else {
      throw new OnnxError("onnx-value", `${here} is ${describe(given)}, expected a list.`);
    }
  }
  return wire;
}

/**
 * A message as protobufjs encodes it. Fields are taken by the names of the schema alone, and values are
 * checked, so that a misspelt name is an error and not left out.
 *
 * @throws OnnxError `onnx-value` with the path of what does not fit, `onnx-limit` when it is nested too deeply
 */
export function toWire(message: Message, value: object): object {
  return messageToWire(message, value, message.name, 0);
}

function valueFromWire(field: Field, value: unknown, path: string): unknown {
  const message = messageOf(field);
  if (message !== undefined) return messageFromWire(message, value as Fields, path);
  if (field.kind === "int64" || field.kind === "uint64") return fromHalves(value as Halves);
  if (field.kind !== "size") return value;
  const size = fromHalves(value as Halves);
  if (isCount(size)) return size;
  throw new OnnxError("onnx-size", `${path} is ${size}, expected a whole number from 0 to 2^53.`);
}

const EMPTY: readonly never[] = Object.freeze([]);

function absent(field: Field): unknown {
  if (field.repeated) return EMPTY;
  return field.kind === "string" ? "" : 0;
}

function messageFromWire(message: Message, wire: Fields, path: string): Fields {
  const value: Record<string, unknown> = {};
  for (const field of message.fields) {
    const { name } = field;
    const found = Object.hasOwn(wire, name) ? wire[name] : undefined;
    const given = field.repeated && (found as unknown[] | undefined)?.length === 0 ? undefined : found;
    if (given === undefined || given === null) {
      if (field.always) value[name] = absent(field);
    } else if (field.repeated) {
      value[name] = (given as unknown[]).map((each, index) =>
        valueFromWire(field, each, `${path}.${name}[${index}]`),
      );
    } else {
      value[name] = valueFromWire(field, given, `${path}.${name}`);
    }
  }
  return value;
}

/**
 * A message that protobufjs decoded as a plain object of the kinds in types.ts. Its nesting has been checked.
 *
 * @param file names the model in messages
 * @throws OnnxError `onnx-size` for a dimension or a version that is not from 0 to 2^53 − 1
 */
export function fromWire(message: Message, wire: object, file: string): Fields {
  return messageFromWire(message, wire as Fields, `${file}: ${message.name}`);
}
