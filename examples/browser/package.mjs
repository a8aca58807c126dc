// What a folder written by `lapidary convert --to onnx` holds, as the page has to know it.
import { readdir, readFile, realpath, stat } from "node:fs/promises";
import { basename, join } from "node:path";

/** Graphs that a text model consists of in transformers.js' layout. */
const GRAPHS = ["embed_tokens", "decoder_model_merged"];

/** transformers.js' names of dtypes by what it puts behind the name of a graph. */
const DTYPES = {
  "": "fp32",
  _fp16: "fp16",
  _quantized: "q8",
  _q4: "q4",
  _q4f16: "q4f16",
  _q2: "q2",
  _q2f16: "q2f16",
};

/** Largest config.json that is read. Real: 5 kB. */
const MAX_CONFIG_BYTES = 16 * 1024 ** 2;

/** The command line as given cannot be right. */
export class Misuse extends Error {}

/** Dtypes of a graph among the names of a package's graph files. */
function dtypesOf(graph, files) {
  const suffixes = Object.keys(DTYPES).filter((suffix) => files.includes(`${graph}${suffix}.onnx`));
  return suffixes.map((suffix) => DTYPES[suffix]);
}

async function readConfig(path) {
  const { size } = await stat(path);
  if (size > MAX_CONFIG_BYTES) throw new Error(`has ${size} bytes, expected at most ${MAX_CONFIG_BYTES}`);
  const config = JSON.parse(await readFile(path, "utf8"));
  if (typeof config !== "object" || config === null) throw new Error("is not a JSON object");
  return config;
}

/**
 * Reads a package folder's config.json and the names of its graphs.
 *
 * @returns `root`, the folder with links followed; `name`; and `choices`, what can be loaded: a label and the value of
 *   transformers.js' option `dtype`, the one that config.json names first
 * @throws Misuse when the folder is not such a package
 */
export async function readPackage(folder) {
  const root = await realpath(folder).catch(() => {
    throw new Misuse(`${folder}: there is no such folder.`);
  });
  const files = await readdir(join(root, "onnx")).catch(() => []);
  const [embed, decoder] = GRAPHS.map((graph) => dtypesOf(graph, files));
  const config = await readConfig(join(root, "config.json")).catch((error) => {
    throw new Misuse(`${join(folder, "config.json")}: ${error.message}.`);
  });
  const choices = embed.filter((dtype) => decoder.includes(dtype)).map((dtype) => ({ label: dtype, dtype }));
  const own = config["transformers.js_config"]?.dtype;
  const [first, second] = GRAPHS.map((graph) => own?.[graph]);
  if (embed.includes(first) && decoder.includes(second)) {
    const dtype = { embed_tokens: first, decoder_model_merged: second };
    const named = choices.findIndex((choice) => choice.label === second);
    if (first !== second) choices.unshift({ label: `${second}, embeddings ${first}`, dtype });
    else choices.unshift(...choices.splice(named, 1));
  }
  if (choices.length === 0) {
    throw new Misuse(
      `${folder}: expected onnx/embed_tokens*.onnx and onnx/decoder_model_merged*.onnx of one dtype. ` +
        "lapidary convert CHECKPOINT --to onnx --dtype q4 --out FOLDER writes them.",
    );
  }
  return { root, name: basename(root), choices };
}
