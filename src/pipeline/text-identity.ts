import { loadDocuments } from "../../calibration/text/documents.js";
import { evaluationSet } from "../../calibration/text/evaluation.js";
import { hashDocuments } from "../../calibration/text/hash.js";

/**
 * SHA-256 over the documents of a text, so that a measurement can be told from one on another text.
 *
 * @param path file or folder; the package's evaluation set when left out
 * @throws TextError when the text cannot be read
 */
export async function hashText(path: string | undefined): Promise<string> {
  return hashDocuments(await loadDocuments(path ?? evaluationSet()));
}
