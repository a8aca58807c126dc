import { createHash } from "node:crypto";
import type { Document } from "./documents.js";

/**
 * SHA-256 over the documents of a text: of their JSON as one array, fed one by one because the whole may be
 * longer than a string can be.
 */
export function hashDocuments(documents: Iterable<Document>): string {
  const hash = createHash("sha256");
  let before = "[";
  for (const document of documents) {
    hash.update(before + JSON.stringify(document));
    before = ",";
  }
  return hash.update(before === "[" ? "[]" : "]").digest("hex");
}
