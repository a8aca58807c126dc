// Measures what files lose that are rounded with feedback, beside llama-quantize's of the same types:
//
//   node bench/fidelity.mjs [--json FILE] [--checkpoint FOLDER] [--calibration TEXT] [--text TEXT] [--chunks N]
//                           [--out FOLDER] [--sequential] [--types LIST]
//
// The peer's figures are those of fixtures/reference/figures.txt, of nano-e on 60 windows of eval.txt: the better of
// its files without and with an importance matrix. With another checkpoint the same files by search are the peer.
import { execFile } from "node:child_process";
import { mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { parseArgs, promisify } from "node:util";

const root = fileURLToPath(new URL("..", import.meta.url));
const { values } = parseArgs({
  options: {
    json: { type: "string" },
    checkpoint: { type: "string", default: join(root, "fixtures/nano-e") },
    calibration: { type: "string", default: join(root, "fixtures/text/calibration.txt") },
    text: { type: "string", default: join(root, "fixtures/text/eval.txt") },
    chunks: { type: "string", default: "60" },
    out: { type: "string", default: join(root, "out/fidelity") },
    sequential: { type: "boolean", default: false },
    types: {
      type: "string",
      default: "Q4_K_M,Q4_K_S,Q4_0,IQ4_XS,Q3_K_M,Q3_K_S,Q2_K,IQ3_XXS,IQ2_M,IQ2_XS,IQ2_XXS,Q2_0",
    },
  },
});
const run = promisify(execFile);

/** What a command of lapidary prints as JSON. */
async function lapidary(...args) {
  const { stdout } = await run(process.execPath, [join(root, "bin/run.js"), ...args, "--json"], {
    maxBuffer: 2 ** 28,
  });
  return JSON.parse(stdout);
}

/** The peer's lower KL divergence by type. */
function peers() {
  const found = new Map();
  for (const line of readFileSync(join(root, "fixtures/reference/figures.txt"), "utf8").split("\n")) {
    const [, type, bytes, kl] = /^(\S+) (?:plain|imatrix) bytes (\d+) .* kld ([\d.]+)/.exec(line) ?? [];
    if (type === undefined) continue;
    const before = found.get(type);
    if (before === undefined || Number(kl) < before.kl)
      found.set(type, { kl: Number(kl), bytes: Number(bytes) });
  }
  return found;
}

const common = ["--text", values.text, "--chunks", values.chunks];
const statistics = join(values.out, "statistics");
mkdirSync(values.out, { recursive: true });
await lapidary(
  "calibrate",
  values.checkpoint,
  "--calibration",
  values.calibration,
  "--evaluation",
  values.text,
  "--depth",
  "gradients",
  "--out",
  statistics,
);
const [{ files: reference }] = (
  await lapidary("convert", values.checkpoint, "--to", "gguf", "--type", "F32", "--out", values.out)
).artifacts;

/** Writes files of all types in one way, and measures them. */
async function measure(way, flags) {
  const folder = join(values.out, way);
  const { artifacts } = await lapidary(
    "convert",
    values.checkpoint,
    "--to",
    "gguf",
    "--type",
    values.types,
    "--out",
    folder,
    "--force",
    ...flags,
  );
  const paths = artifacts.flatMap(({ files }) => files);
  const { files } = await lapidary("verify", ...paths, "--reference", reference[0], ...common);
  return new Map(
    artifacts.map(({ type, bytes }, index) => {
      const { perplexity, comparison } = files[index].result.windows;
      const { divergence, referencePerplexity } = comparison;
      const ratio = perplexity.value / referencePerplexity.value;
      return [type, { bytes, kl: divergence.value, error: divergence.error, ratio }];
    }),
  );
}

const search = await measure("search", ["--imatrix", join(statistics, "imatrix.gguf"), "--method", "search"]);
const order = values.sequential ? ["--sequential"] : [];
const feedback = await measure("feedback", ["--statistics", statistics, ...order]);
const known = values.checkpoint.endsWith("nano-e") ? peers() : new Map();

console.log("| type | bytes | peer | search | feedback | ± | to the peer | perplexity |");
console.log("|---|---:|---:|---:|---:|---:|---:|---:|");
const results = [...feedback].map(([type, ours]) => {
  const peer = known.get(type) ?? null;
  const plain = search.get(type);
  const ratio = ours.kl / (peer?.kl ?? plain.kl);
  const cells = [
    type,
    ours.bytes,
    peer?.kl.toFixed(6) ?? "",
    plain.kl.toFixed(6),
    ours.kl.toFixed(6),
    ours.error.toFixed(6),
    ratio.toFixed(2),
    `× ${ours.ratio.toFixed(4)}`,
  ];
  console.log(`| ${cells.join(" | ")} |`);
  return { type, peer, search: plain, feedback: ours, ratio };
});
if (values.json !== undefined) writeFileSync(values.json, `${JSON.stringify(results, null, 2)}\n`);
