import { createHash } from "node:crypto";
import { expect, it } from "vitest";
import type { Document } from "../../../calibration/text/documents.js";
import { hashDocuments } from "../../../calibration/text/hash.js";

const documents: Document[] = [
  { kind: "text", file: "a.txt", text: 'ein "Text"\n' },
  { kind: "chat", file: "c.jsonl", line: 2, messages: [{ role: "user", content: "日本" }], tools: null },
];

it.each([[[]], [documents.slice(1)], [documents]])("hashes documents as their JSON in one piece", (some) => {
  expect(hashDocuments(some)).toBe(createHash("sha256").update(JSON.stringify(some)).digest("hex"));
});
