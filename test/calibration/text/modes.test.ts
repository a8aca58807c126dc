import * as fc from "fast-check";
import { describe, expect, it } from "vitest";
import type { Document } from "../../../calibration/text/documents.js";
import { TextError } from "../../../calibration/text/errors.js";
import { type RenderChat, resolveMode, textPieces } from "../../../calibration/text/modes.js";

const plain = (text: string, file = "a.txt"): Document => ({ kind: "text", file, text });
const chat: Document = {
  kind: "chat",
  file: "c.jsonl",
  line: 1,
  tools: null,
  messages: [
    { role: "user", content: "Hi" },
    { role: "assistant", content: "", tool_calls: [] },
    { role: "assistant", content: "Ho" },
  ],
};
const render: RenderChat = ({ messages }) =>
  `<bos>${messages.map(({ role, content }) => `<|turn>${role}\n${content}<turn|>\n`).join("")}`;

const other: RenderChat = () => "[B]<bos>x";

/** Text with every run of white space as one space. */
function squeeze(text: string): string {
  return text.replaceAll(/\s+/g, " ").trim();
}

describe("resolveMode", () => {
  it("follows the model only when it may", () => {
    expect(resolveMode("auto", true)).toBe("chat");
    expect(resolveMode("auto", false)).toBe("raw");
    expect(resolveMode("raw", true)).toBe("raw");
    expect(resolveMode("chat", false)).toBe("chat");
  });
});

describe("raw text", () => {
  it("of one file is the file without its last line end, as llama.cpp's tools read it", () => {
    expect(textPieces([plain("a\n\nb\n\n")], "raw")).toEqual([
      { file: "a.txt", line: 1, text: "a\n\nb\n", special: false },
    ]);
    expect(textPieces([plain("<bos>a")], "raw")).toEqual([
      { file: "a.txt", line: 1, text: "<bos>a", special: false },
    ]);
  });

  it("of several documents is parted by blank lines; of chats the contents are left", () => {
    const pieces = textPieces([plain("a"), plain("b\n", "b.txt"), chat, plain("c\n")], "raw");
    expect(pieces.map((piece) => piece.text).join("")).toBe("a\n\nb\n\nHi\n\nHo\n\nc");
    expect(pieces.map((piece) => piece.file)).toEqual(["a.txt", "b.txt", "c.jsonl", "a.txt"]);
  });
});

describe("chats", () => {
  it("go through the template, without the BOS it writes, control tokens meant", () => {
    expect(textPieces([chat], "chat", { render })).toEqual([
      {
        file: "c.jsonl",
        line: 1,
        text: "<|turn>user\nHi<turn|>\n<|turn>assistant\n<turn|>\n<|turn>assistant\nHo<turn|>\n",
        special: true,
      },
    ]);
    expect(textPieces([chat], "chat", { render: other, bos: "[B]" })[0]?.text).toBe("<bos>x");
    expect(textPieces([chat], "chat", { render: other })[0]?.text).toBe("[B]<bos>x");
  });

  it("are refused without a template", () => {
    for (const options of [{}, { render: null }]) {
      expect(() => textPieces([chat], "chat", options)).toThrow(TextError);
    }
  });

  it("are made of plain text: the user quotes the start of each passage, the model goes on", () => {
    const paragraph = `${"Word ".repeat(60)}end.\n`;
    const text = paragraph.repeat(20);
    const seen: { user: string; model: string }[] = [];
    textPieces([plain(text)], "chat", {
      render: ({ messages }) => {
        expect(messages.map((message) => message.role)).toEqual(["user", "assistant"]);
        const [user, model] = messages.map((message) => message.content) as [string, string];
        seen.push({ user: user.slice("Continue this text:\n\n".length), model });
        return "";
      },
    });
    expect(seen.length).toBeGreaterThan(2);
    expect(squeeze(seen.map(({ user, model }) => `${user} ${model}`).join(" "))).toBe(squeeze(text));
    for (const { user, model } of seen) expect(user.length).toBeLessThan(model.length);
    for (const { model } of seen) expect(model.endsWith("end.")).toBe(true);
  });

  it("know the line that each passage begins on", () => {
    const text = Array.from({ length: 200 }, (_, i) => `line ${i + 1} ${"word ".repeat(12)}`).join("\n");
    const pieces = textPieces([plain(text)], "chat", {
      render: ({ messages }) => messages[0]?.content.slice("Continue this text:\n\n".length) ?? "",
    });
    expect(pieces.length).toBeGreaterThan(3);
    for (const { text, line } of pieces) expect(text.startsWith(`line ${line} `)).toBe(true);
  });

  it("lose no character of a text without spaces, and cut none in two", () => {
    const unit = fc.constantFrom("字", "🚀", "ก", "a");
    fc.assert(
      fc.property(fc.array(unit, { minLength: 1, maxLength: 6000, size: "max" }), (units) => {
        const text = units.join("");
        const parts: string[] = [];
        textPieces([plain(text)], "chat", {
          render: ({ messages }) => {
            const [user, model] = messages.map((message) => message.content) as [string, string];
            parts.push(user.slice("Continue this text:\n\n".length), model);
            return "";
          },
        });
        for (const part of parts) expect(/\p{Cs}/u.test(part)).toBe(false);
        // A last passage of a single character has no start and rest to part.
        expect(text.startsWith(parts.join(""))).toBe(true);
        expect(text.length - parts.join("").length).toBeLessThanOrEqual(2);
      }),
      { seed: 6, numRuns: 30 },
    );
  });
});
