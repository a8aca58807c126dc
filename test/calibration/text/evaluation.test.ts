import { readdir, readFile } from "node:fs/promises";
import { join } from "node:path";
import { describe, expect, it } from "vitest";
import { loadDocuments } from "../../../calibration/text/documents.js";
import { evaluationSet } from "../../../calibration/text/evaluation.js";
import { textPieces } from "../../../calibration/text/modes.js";
import { packageRoot } from "../../../src/base/paths.js";

/** Characters of a shingle: about a line, far more than two texts have in common by chance. */
const shingle = 100;

/** Text without differences of layout, so that the same passage wrapped otherwise is still the same. */
async function plainText(path: string): Promise<string> {
  const documents = await loadDocuments(path);
  const text = textPieces(documents, "raw").map((piece) => piece.text);
  return text.join("").replaceAll(/\s+/g, " ").toLowerCase();
}

/** Share of the shingles of `text`, one at every tenth place, that also stand in `other`. */
function overlap(text: string, other: string): number {
  const wanted = new Set<string>();
  for (let i = 0; i + shingle <= text.length; i += 10) wanted.add(text.slice(i, i + shingle));
  const found = new Set<string>();
  for (let i = 0; i + shingle <= other.length; i++) {
    const piece = other.slice(i, i + shingle);
    if (wanted.has(piece)) found.add(piece);
  }
  return found.size / wanted.size;
}

describe("the evaluation set", () => {
  it("has chats with tool calls, code, prose and twenty languages", async () => {
    const documents = await loadDocuments(evaluationSet());
    const files = new Set(documents.map((document) => document.file));
    const count = (prefix: string): number => [...files].filter((file) => file.startsWith(prefix)).length;
    expect(count("language-")).toBe(20);
    expect(count("code-")).toBeGreaterThanOrEqual(5);
    expect(count("prose-")).toBeGreaterThanOrEqual(3);
    const chats = documents.filter((document) => document.kind === "chat");
    expect(chats.length).toBeGreaterThanOrEqual(10);
    expect(chats.every((chat) => chat.messages.length >= 4)).toBe(true);
    const calls = chats.filter((chat) =>
      chat.messages.some((message) => message["tool_calls"] !== undefined),
    );
    expect(calls.length).toBeGreaterThanOrEqual(2);
    expect(calls.every((chat) => chat.tools !== null)).toBe(true);
  });

  it("is small, and says of every file where it comes from", async () => {
    const folder = evaluationSet();
    const readme = await readFile(join(folder, "README.md"), "utf8");
    const files = (await readdir(folder)).filter((file) => file !== "README.md");
    expect(files.filter((file) => !readme.includes(`| \`${file}\` |`))).toEqual([]);
    let bytes = 0;
    for (const file of files) bytes += (await readFile(join(folder, file))).length;
    expect(bytes).toBeGreaterThan(150_000);
    expect(bytes).toBeLessThan(250_000);
  });

  it("shares nothing with the texts that models are calibrated on", async () => {
    const set = await plainText(evaluationSet());
    for (const name of ["calibration.txt", "eval.txt"]) {
      const other = await plainText(join(packageRoot, "fixtures", "text", name));
      expect(overlap(set, other)).toBeLessThanOrEqual(0.01);
      // The yardstick itself: a text overlaps with itself, and with a part of itself in part.
      expect(overlap(other, other)).toBe(1);
      expect(overlap(other, other.slice(0, other.length / 2))).toBeCloseTo(0.5, 1);
    }
  });
});
