import { isUtf8 } from "node:buffer";
import { TextError } from "./errors.js";

/**
 * Offset of the first byte that cannot be part of well-formed UTF-8 (Unicode 15, table 3-7: no overlong
 * forms, no surrogates, nothing above U+10FFFF, no cut sequence), or -1.
 */
export function invalidUtf8Offset(bytes: Uint8Array): number {
  let at = 0;
  while (at < bytes.length) {
    const lead = bytes[at] ?? 0;
    if (lead < 0x80) {
      at++;
      continue;
    }
    const length =
      lead >= 0xc2 && lead <= 0xdf ? 2 : lead >> 4 === 0xe ? 3 : lead >= 0xf0 && lead <= 0xf4 ? 4 : 0;
    if (length === 0) return at;
    const low = lead === 0xe0 ? 0xa0 : lead === 0xf0 ? 0x90 : 0x80;
    const high = lead === 0xed ? 0x9f : lead === 0xf4 ? 0x8f : 0xbf;
    const second = bytes[at + 1] ?? 0;
    if (second < low || second > high) return at;
    for (let i = 2; i < length; i++) if ((bytes[at + i] ?? 0) >> 6 !== 2) return at;
    at += length;
  }
  return -1;
}

/**
 * Decodes UTF-8 as it stands: a byte order mark stays in the text, nothing is replaced.
 *
 * @param name the file, for the message
 * @throws TextError `text-encoding` with the offset of the first bad byte
 */
export function decodeUtf8(bytes: Uint8Array, name: string): string {
  if (!isUtf8(bytes)) {
    const offset = invalidUtf8Offset(bytes);
    const found = (bytes[offset] ?? 0).toString(16).padStart(2, "0");
    throw new TextError(
      "text-encoding",
      `${name}: byte 0x${found} at offset ${offset} is not part of well-formed UTF-8.`,
      { advice: "Convert the file to UTF-8, or leave it out." },
    );
  }
  return new TextDecoder("utf-8", { ignoreBOM: true }).decode(bytes);
}
