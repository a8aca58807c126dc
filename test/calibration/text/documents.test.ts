import { mkdir, mkdtemp, rm, truncate, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import * as fc from "fast-check";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { loadDocuments, maxTextBytes, parseDocuments } from "../../../calibration/text/documents.js";
import { TextError } from "../../../calibration/text/errors.js";
import { invalidUtf8Offset } from "../../../calibration/text/utf8.js";

let folder = "";
beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), "lapidary-text-"));
});
afterAll(() => rm(folder, { recursive: true, force: true }));

const bytes = (text: string): Buffer => Buffer.from(text, "utf8");

function failure(run: () => unknown): TextError {
  try {
    run();
  } catch (error) {
    if (error instanceof TextError) return error;
    throw error;
  }
  throw new Error("nothing was refused");
}

/** Whether the platform's own decoder takes it. */
function accepted(raw: Uint8Array): boolean {
  try {
    new TextDecoder("utf-8", { fatal: true }).decode(raw);
    return true;
  } catch {
    return false;
  }
}

async function failureOf(promise: Promise<unknown>): Promise<TextError> {
  const error: unknown = await promise.then(
    () => new Error("nothing was refused"),
    (reason: unknown) => reason,
  );
  if (error instanceof TextError) return error;
  throw error;
}

describe("plain text", () => {
  it("is kept as it stands", () => {
    const text = "\uFEFF a\r\nb\t🚀 \u0000\n\n";
    expect(parseDocuments(bytes(text), "a.txt")).toEqual([{ kind: "text", file: "a.txt", text }]);
  });

  it.each([
    ["a lone continuation byte", [0x61, 0x80], 1],
    ["an overlong form", [0x61, 0x62, 0xc0, 0xaf], 2],
    ["an overlong form of three bytes", [0xe0, 0x9f, 0xbf], 0],
    ["a surrogate", [0x61, 0xed, 0xa0, 0x80], 1],
    ["a code point above U+10FFFF", [0xf4, 0x90, 0x80, 0x80], 0],
    ["a cut sequence", [0x61, 0xe2, 0x82], 1],
    ["a byte that never occurs", [0x61, 0x62, 0x63, 0xff], 3],
    ["Latin-1", [...Buffer.from("Größe", "latin1")], 2],
  ])("with %s is refused with its offset", (_, raw, offset) => {
    const error = failure(() => parseDocuments(Uint8Array.from(raw), "bad.txt"));
    expect(error.code).toBe("text-encoding");
    expect(error.message).toContain(
      `bad.txt: byte 0x${(raw[offset] ?? 0).toString(16)} at offset ${offset} `,
    );
  });

  it("is judged as the platform's decoder judges it", () => {
    const piece = fc.oneof(
      fc.constantFrom(...["é", "€", "\u{10FFFF}", "\uD7FF", "\uE000", "a"].map((text) => [...bytes(text)])),
      fc.array(fc.integer({ min: 0x7f, max: 0xff }), { minLength: 1, maxLength: 3 }),
    );
    fc.assert(
      fc.property(fc.array(piece, { maxLength: 5 }), (pieces) => {
        const raw = Uint8Array.from(pieces.flat());
        const offset = invalidUtf8Offset(raw);
        expect(accepted(raw)).toBe(offset === -1);
        expect(accepted(raw.subarray(0, offset === -1 ? raw.length : offset))).toBe(true);
      }),
      { seed: 5, numRuns: 500 },
    );
  });
});

describe("chats", () => {
  const chat = '{"messages":[{"role":"user","content":"Hi"},{"role":"assistant","content":"Ho"}]}';

  it("come one a line, blank lines apart, with their line numbers", () => {
    const documents = parseDocuments(bytes(`${chat}\r\n\n${chat}\n`), "c.jsonl");
    expect(documents.map((document) => (document.kind === "chat" ? document.line : 0))).toEqual([1, 3]);
    expect(documents[0]).toEqual({
      kind: "chat",
      file: "c.jsonl",
      line: 1,
      tools: null,
      messages: [
        { role: "user", content: "Hi" },
        { role: "assistant", content: "Ho" },
      ],
    });
  });

  it("keep tool calls, tool names and declared tools", () => {
    const call = [{ type: "function", id: "1", function: { name: "add", arguments: { a: 1 } } }];
    const tools = [{ type: "function", function: { name: "add" } }];
    const messages = [
      { role: "user", content: "1 + 2?" },
      { role: "assistant", content: null, tool_calls: call },
      { role: "tool", name: "add", tool_call_id: "1", content: "3" },
    ];
    const [document] = parseDocuments(bytes(JSON.stringify({ messages, tools })), "c.jsonl");
    expect(document).toMatchObject({
      tools,
      messages: [messages[0], { content: "", tool_calls: call }, messages[2]],
    });
  });

  it.each([
    ["{", "c.jsonl, line 2: this is not JSON"],
    ["[]", 'line 2: there is no "messages" array'],
    ['{"messages":[]}', 'line 2: there is no "messages" array'],
    ['{"messages":["x"]}', "line 2: message 1 is not an object"],
    ['{"messages":[{"role":"robot","content":""}]}', 'line 2: message 1 has the role "robot"'],
    ['{"messages":[{"content":""}]}', "line 2: message 1 has the role undefined"],
    ['{"messages":[{"role":"user","content":[{"type":"image"}]}]}', 'line 2: message 1 has a "content"'],
    ['{"messages":[{"role":"user"}]}', 'line 2: message 1 has a "content"'],
    ['{"messages":[{"role":"user","content":"x"}],"tools":{}}', 'line 2: "tools" is not an array'],
  ])("are refused when a line is %s", (line, message) => {
    const error = failure(() => parseDocuments(bytes(`${chat}\n${line}`), "c.jsonl"));
    expect(error.code).toBe("text-chat");
    expect(error.message).toContain(message);
  });
});

describe("loadDocuments", () => {
  it("reads the text files of a folder in the order of their names, and nothing else", async () => {
    const set = join(folder, "set");
    await mkdir(join(set, "inner.txt"), { recursive: true });
    await writeFile(join(set, "b.txt"), "second");
    await writeFile(join(set, "a.jsonl"), '{"messages":[{"role":"user","content":"first"}]}');
    await writeFile(join(set, "README.md"), "not read");
    await writeFile(join(set, "B.txt"), "capitals come first");
    const found = await loadDocuments(set);
    expect(found.map((document) => document.file)).toEqual(["B.txt", "a.jsonl", "b.txt"]);
  });

  it("names what cannot be read", async () => {
    expect(await failureOf(loadDocuments(join(folder, "no.txt")))).toMatchObject({
      code: "text-missing",
      exitCode: 2,
    });
    await mkdir(join(folder, "bare"));
    expect(await failureOf(loadDocuments(join(folder, "bare")))).toMatchObject({
      code: "text-empty",
      exitCode: 2,
    });
    expect(await failureOf(loadDocuments("/dev/null"))).toMatchObject({ code: "text-missing" });
    await writeFile(join(folder, "blank.txt"), " \n\t\n");
    expect(await failureOf(loadDocuments(join(folder, "blank.txt")))).toMatchObject({ code: "text-empty" });
    await writeFile(join(folder, "none.jsonl"), "\n");
    expect(await failureOf(loadDocuments(join(folder, "none.jsonl")))).toMatchObject({ code: "text-empty" });
  });

  it("refuses a text that is too large before reading it", async () => {
    const path = join(folder, "large.txt");
    await writeFile(path, "");
    await truncate(path, maxTextBytes + 1);
    expect(await failureOf(loadDocuments(path))).toMatchObject({ code: "text-size" });
  });
});
