import { readdir, readFile } from "node:fs/promises";
import { join } from "node:path";
import { describe, expect, it } from "vitest";
import { type ChatDocument, type Document, loadDocuments } from "../../../calibration/text/documents.js";
import { calibrationSet, evaluationSet } from "../../../calibration/text/evaluation.js";
import { rawText } from "../../../calibration/text/modes.js";
import { PassageIndex } from "../../../calibration/text/near-duplicates.js";
import { countScripts, otherScripts, scriptNames } from "../../../calibration/text/scripts.js";
import { packageRoot } from "../../../src/base/paths.js";

const isChat = (document: Document): document is ChatDocument => document.kind === "chat";

describe("the calibration set", () => {
  it("is small, says of every file where it comes from, and ships with the package", async () => {
    const folder = calibrationSet();
    const readme = await readFile(join(folder, "README.md"), "utf8");
    const files = (await readdir(folder)).filter((file) => file !== "README.md");
    expect(files.filter((file) => !readme.includes(`| \`${file}\` |`))).toEqual([]);
    expect(new Set([...readme.matchAll(/^\| `([^`]+)` \|/gm)].map(([, file]) => file))).toEqual(
      new Set(files),
    );
    let bytes = 0;
    for (const file of files) bytes += (await readFile(join(folder, file))).length;
    expect(bytes).toBeGreaterThan(300_000);
    expect(bytes).toBeLessThan(700_000);
    const { files: shipped } = JSON.parse(await readFile(join(packageRoot, "package.json"), "utf8")) as {
      files: string[];
    };
    expect(shipped).toContain("fixtures/calibration");
  });

  it("has prose, dialogue, mathematics, code, chats, calls of tools and all scripts that are counted", async () => {
    const documents = await loadDocuments(calibrationSet());
    const files = new Set(documents.map(({ file }) => file));
    for (const prefix of ["code-", "dialogue-", "languages-", "mathematics", "prose-"])
      expect([...files].some((file) => file.startsWith(prefix))).toBe(true);
    const chats = documents.filter((document) => isChat(document));
    expect(chats.length).toBeGreaterThanOrEqual(50);
    const scripts = countScripts(documents.map((document) => rawText(document)));
    const missing = scriptNames.filter((name) => scripts[name] === undefined);
    // Mongolian is written in Cyrillic there.
    expect(missing).toEqual(["Oriya", "Mongolian"]);
    expect(scripts[otherScripts]).toBeGreaterThan(1000);
  });

  it("answers every call of a tool, and calls only tools that it declares", async () => {
    const documents = await loadDocuments(calibrationSet());
    const chats = documents.filter((document) => isChat(document)).filter(({ tools }) => tools !== null);
    expect(chats.length).toBeGreaterThanOrEqual(15);
    for (const { messages, tools } of chats) {
      const declared = new Set((tools as { function: { name: string } }[]).map((tool) => tool.function.name));
      const calls = messages.flatMap(
        (message) => (message["tool_calls"] ?? []) as { id: string; function: { name: string } }[],
      );
      expect(calls.length).toBeGreaterThan(0);
      expect(calls.every((call) => declared.has(call.function.name))).toBe(true);
      const answers = messages
        .filter(({ role }) => role === "tool")
        .map((message) => message["tool_call_id"]);
      expect(answers).toEqual(calls.map(({ id }) => id));
    }
  });

  it("repeats nothing, and nothing of the texts that models are measured on is nearly the same", async () => {
    const index = new PassageIndex();
    for (const path of [evaluationSet(), join(packageRoot, "fixtures", "text", "eval.txt")])
      for (const document of await loadDocuments(path)) index.add(document, document.file);
    const own = new PassageIndex();
    for (const document of await loadDocuments(calibrationSet())) {
      expect(index.compare(document, document.file)).toEqual([]);
      expect(own.add(document, document.file)).toEqual([]);
    }
  });
});
