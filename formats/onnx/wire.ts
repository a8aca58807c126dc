import { isUtf8 } from "node:buffer";
import { COPY_AGAIN, OnnxError } from "./errors.js";
import { MAX_MESSAGES, MAX_NESTING, MAX_STRING_BYTES, MAX_VALUES } from "./limits.js";
import { type Field, type Kind, type Message, messageOf, ROOT } from "./schema.js";

const VARINT = 0;
const FIXED64 = 1;
const LENGTH = 2;
const GROUP_START = 3;
const GROUP_END = 4;
const FIXED32 = 5;

const WIRE_TYPES: Readonly<Partial<Record<Kind, number>>> = {
  int32: VARINT,
  int64: VARINT,
  uint64: VARINT,
  size: VARINT,
  float: FIXED32,
  double: FIXED64,
};

/** A message, or an unknown group, that the walk is inside of. */
interface Frame {
  /** Undefined in a group that we do not know. */
  readonly message: Message | undefined;
  /** The field that it is, for the path in messages. */
  readonly field: string;
  /** Its number, which the end of a group has to repeat. */
  readonly id: number;
  /** Where it ends; a group, wherever its end stands up to here. */
  readonly end: number;
}

/** Walks over an encoded model with a list of open messages in place of recursion. */
class WireWalk {
  readonly #bytes: Uint8Array;
  readonly #file: string;
  readonly #frames: Frame[] = [];
  #at = 0;
  #messages = 0;
  #values = 0;

  constructor(bytes: Uint8Array, file: string) {
    this.#bytes = bytes;
    this.#file = file;
  }

  run(): void {
    this.#open({ message: ROOT, field: "model", id: 0, end: this.#bytes.length });
    for (let frame = this.#frames.at(-1); frame !== undefined; frame = this.#frames.at(-1)) {
      if (this.#at < frame.end) {
        this.#field(frame);
      } else {
        if (frame.message === undefined) throw this.#damaged("a group has no end");
        this.#frames.pop();
      }
    }
  }

  #field(frame: Frame): void {
    const tag = this.#varint32(frame.end, "a tag");
    const id = tag >>> 3;
    const wireType = tag & 7;
    if (id === 0) throw this.#damaged("a field has the number 0");
    const field = frame.message?.byId(id);
    if (field === undefined) this.#skip(frame, id, wireType);
    else this.#known(frame, field, wireType);
  }

  /** Steps over a field that the schema does not have. */
  #skip(frame: Frame, id: number, wireType: number): void {
    if (wireType === VARINT) this.#varint(frame.end);
    else if (wireType === FIXED64) this.#take(8, frame.end);
    else if (wireType === LENGTH) this.#take(this.#length(frame.end), frame.end);
    else if (wireType === FIXED32) this.#take(4, frame.end);
    else if (wireType === GROUP_START) {
      this.#open({ message: undefined, field: `group ${id}`, id, end: frame.end });
    } else if (wireType === GROUP_END && frame.message === undefined && frame.id === id) this.#frames.pop();
    else throw this.#damaged(`field ${id} has the wire type ${wireType}`);
  }

  #known({ end }: Frame, field: Field, wireType: number): void {
    const scalar = WIRE_TYPES[field.kind];
    if (scalar === undefined) {
      if (wireType !== LENGTH) throw this.#mistyped(field, wireType);
      this.#delimited(field, end);
    } else if (wireType === scalar) {
      this.#count(field, 1);
      this.#number(scalar, end);
    } else if (wireType === LENGTH && field.repeated) {
      this.#packed(field, scalar, end);
    } else {
      throw this.#mistyped(field, wireType);
    }
  }

  #delimited(field: Field, end: number): void {
    const length = this.#length(end);
    const message = messageOf(field);
    if (message !== undefined) {
      if (length > end - this.#at) throw this.#tooLong(length, end);
      this.#open({ message, field: field.name, id: field.id, end: this.#at + length });
      return;
    }
    const start = this.#at;
    this.#take(length, end);
    this.#count(field, 1);
    if (field.kind !== "string") return;
    if (length > MAX_STRING_BYTES) {
      throw this.#limit(`${field.name} has ${length} bytes, expected at most ${MAX_STRING_BYTES}`);
    }
    if (!isUtf8(this.#bytes.subarray(start, this.#at))) {
      throw this.#damaged(`${field.name} is not valid UTF-8`);
    }
  }

  #packed(field: Field, scalar: number, end: number): void {
    const length = this.#length(end);
    const start = this.#at;
    if (scalar === VARINT) {
      if (length > end - start) throw this.#tooLong(length, end);
      // Counted as they come, so that the bound is met before the walk gets long.
      while (this.#at < start + length) {
        this.#count(field, 1);
        this.#varint(start + length);
      }
      return;
    }
    const width = scalar === FIXED64 ? 8 : 4;
    this.#take(length, end);
    if (length % width !== 0) throw this.#damaged(`${field.name} is not a whole number of values`);
    this.#count(field, length / width);
  }

  #number(wireType: number, end: number): void {
    if (wireType === VARINT) this.#varint(end);
    else this.#take(wireType === FIXED64 ? 8 : 4, end);
  }

  #open(frame: Frame): void {
    if (this.#frames.length > MAX_NESTING) {
      throw this.#limit(`messages are nested deeper than ${MAX_NESTING}`);
    }
    if (++this.#messages > MAX_MESSAGES) throw this.#limit(`there are more than ${MAX_MESSAGES} messages`);
    this.#frames.push(frame);
  }

  #count(field: Field, values: number): void {
    if (!field.repeated) return;
    this.#values += values;
    if (this.#values > MAX_VALUES) throw this.#limit(`there are more than ${MAX_VALUES} values in lists`);
  }

  #take(bytes: number, end: number): void {
    if (bytes > end - this.#at) throw this.#tooLong(bytes, end);
    this.#at += bytes;
  }

  #length(end: number): number {
    const length = this.#varint32(end, "a length");
    if (length > 2 ** 31 - 1) throw this.#damaged(`a length is ${length}`);
    return length;
  }

  /** At most 32 bits in at most 5 bytes, as tags and lengths have to be. */
  #varint32(end: number, what: string): number {
    let value = 0;
    for (let shift = 0; shift < 5; shift++) {
      if (this.#at >= end) throw this.#damaged(`the message ends inside ${what}`);
      const byte = this.#bytes[this.#at++]!;
      value += (byte & 0x7f) * 2 ** (7 * shift);
      if (byte < 0x80) {
        if (value >= 2 ** 32) break;
        return value;
      }
    }
    throw this.#damaged(`${what} is longer than 32 bits`);
  }

  /** A value of up to 64 bits, in at most 10 bytes. */
  #varint(end: number): void {
    for (let read = 0; read < 10; read++) {
      if (this.#at >= end) throw this.#damaged("the message ends inside a number");
      if (this.#bytes[this.#at++]! < 0x80) return;
    }
    throw this.#damaged("a number is longer than 64 bits");
  }

  #mistyped({ name }: Field, wireType: number): OnnxError {
    return this.#damaged(`${name} has the wire type ${wireType}`);
  }

  #tooLong(bytes: number, end: number): OnnxError {
    return this.#damaged(`${bytes} bytes are announced, ${end - this.#at} are left`);
  }

  #damaged(problem: string): OnnxError {
    return new OnnxError("onnx-damaged", `${this.#place()}: ${problem}.`, { advice: COPY_AGAIN });
  }

  #limit(problem: string): OnnxError {
    return new OnnxError("onnx-limit", `${this.#place()}: ${problem}.`);
  }

  #place(): string {
    const path = this.#frames
      .slice(0, 12)
      .map(({ field }) => field)
      .join(".");
    return `${this.#file}: at byte ${this.#at}, in ${path}${this.#frames.length > 12 ? "…" : ""}`;
  }
}

/**
 * Checks an encoded model before it is decoded: every length lies inside its message, texts are UTF-8, and
 * nesting and counts stay within limits.ts. What the schema does not know is stepped over. Takes no memory
 * to speak of, and no stack, whatever the bytes.
 *
 * @param file names the model in messages
 * @throws OnnxError `onnx-damaged`, `onnx-limit`
 */
export function checkWire(bytes: Uint8Array, file: string): void {
  new WireWalk(bytes, file).run();
}
