import type { Dirent } from "node:fs";
import { readdir, stat } from "node:fs/promises";
import { basename, join } from "node:path";
import { PipelineError } from "./errors.js";

/** Graphs of one folder; each is read as a whole. Real: 40, four graphs in ten types. */
const MAX_GRAPHS = 1000;

/** Where transformers.js looks for the graphs of a model. */
const GRAPH_FOLDER = "onnx";

/** Lies beside the folders of the graphs where onnxruntime-genai runs a model. */
const GENAI_CONFIG = "genai_config.json";

/** A graph that a user named, or that lies in the folder named. */
export interface OnnxFile {
  /** Path in the folder, with `/`; its own name when the file itself was named. */
  readonly file: string;
  readonly path: string;
}

function isGraph({ name }: Dirent): boolean {
  return /\.onnx$/i.test(name);
}

/** Links count as what they lead to: in the cache of the hub all files are links. */
async function isKind(path: string, kind: "file" | "folder"): Promise<boolean> {
  const found = await stat(path).catch(() => null);
  return found !== null && (kind === "file" ? found.isFile() : found.isDirectory());
}

/** Graphs that lie in a folder itself, by name. A link that leads nowhere counts, so that it is told of. */
async function graphsIn(folder: string, prefix: string): Promise<OnnxFile[]> {
  const entries = await readdir(folder, { withFileTypes: true });
  const graphs: OnnxFile[] = [];
  for (const entry of entries.filter(isGraph)) {
    const path = join(folder, entry.name);
    if (!(await isKind(path, "folder"))) graphs.push({ file: `${prefix}${entry.name}`, path });
  }
  return graphs.toSorted((a, b) => (a.file < b.file ? -1 : 1));
}

/**
 * The ONNX graphs behind a path: the file itself, or those in a folder, in its subfolder `onnx`, and where
 * genai_config.json says that there are more in its other subfolders. A folder with safetensors is a
 * checkpoint, whatever else lies there.
 *
 * @returns null when the path holds no graph, or nothing at all
 * @throws PipelineError `onnx-limit` when there are more than `MAX_GRAPHS`
 */
export async function findOnnx(path: string): Promise<OnnxFile[] | null> {
  const found = await stat(path).catch(() => null);
  if (found === null) return null;
  if (!found.isDirectory()) return /\.onnx$/i.test(path) ? [{ file: basename(path), path }] : null;
  const entries = await readdir(path, { withFileTypes: true });
  const names = entries.map(({ name }) => name).toSorted();
  if (names.some((name) => name.endsWith(".safetensors") || name.endsWith(".safetensors.index.json")))
    return null;
  const folders = names.includes(GENAI_CONFIG) ? names : names.filter((name) => name === GRAPH_FOLDER);
  const graphs = await graphsIn(path, "");
  for (const name of folders) {
    const folder = join(path, name);
    if (await isKind(folder, "folder")) graphs.push(...(await graphsIn(folder, `${name}/`)));
  }
  if (graphs.length > MAX_GRAPHS) {
    throw new PipelineError(
      "onnx-limit",
      `${path}: the folder holds ${graphs.length} ONNX graphs, expected at most ${MAX_GRAPHS}.`,
      { exitCode: 2, advice: "Name one of them." },
    );
  }
  return graphs.length === 0 ? null : graphs;
}
