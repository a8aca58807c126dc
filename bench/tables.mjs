// Prints the tables of docs/performance.md from what `npm run bench` has kept:
//
//   node bench/tables.mjs [FOLDER]
import { existsSync, readFileSync } from "node:fs";
import { join } from "node:path";

const folder = process.argv[2] ?? "out/bench";

function table(header, rows) {
  const rule = header.map((title) => (title.startsWith(">") ? "---:" : "---"));
  const lines = [header.map((title) => title.replace(">", "")), rule, ...rows];
  console.log(`${lines.map((cells) => `| ${cells.join(" | ")} |`).join("\n")}\n`);
}

const yes = (flag) => (flag ? "yes" : "no");
const percent = (share, digits = 1) => (Number.isFinite(share) ? `${(share * 100).toFixed(digits)} %` : "");
const ppm = (share) => (Number.isFinite(share) ? (share * 1e6).toFixed(1) : "");
const ratio = (a, b) => (a === undefined || b === undefined ? "" : (a / b).toFixed(a / b < 10 ? 1 : 0));
const rate = (value) => value?.toFixed(0) ?? "";
const median = (list) => list.toSorted((a, b) => a - b)[Math.floor(list.length / 2)];

const printers = {
  kernels(results) {
    table(
      ["type", "importance", ">lapidary", ">ggml", ">ratio", ">native ggml", ">ratio"],
      results.map(({ target, importance, ours, ggml, native }) => [
        target,
        yes(importance),
        rate(ours),
        rate(ggml),
        ratio(ours, ggml),
        rate(native),
        ratio(ours, native),
      ]),
    );
  },
  search(results) {
    table(
      [
        "type",
        "importance",
        ">ggml",
        ">search",
        ">lower",
        ">possible",
        ">closed",
        ">MB/s",
        ">ggml",
        ">ratio",
      ],
      results.map(({ type, importance, ggmlError, searchError, gapClosed, scanOverGgml, speed }) => [
        type,
        yes(importance),
        ppm(ggmlError),
        ppm(searchError),
        percent(1 - searchError / ggmlError),
        scanOverGgml === null ? "" : percent(1 - scanOverGgml),
        gapClosed === null ? "" : percent(gapClosed),
        rate(speed.search),
        rate(speed.ggml),
        (speed.search / speed.ggml).toFixed(2),
      ]),
    );
  },
  quantize(results) {
    table(
      ["mix", "command", ">seconds", ">MB/s", ">× llama-quantize"],
      results.map(({ mix, name, seconds, bytesRead, ratio: times }) => [
        mix,
        name,
        seconds.toFixed(2),
        rate(bytesRead / 1e6 / seconds),
        times.toFixed(2),
      ]),
    );
  },
  convert(results) {
    const rates = new Map(
      results.map(({ name, bytesRead, seconds }) => [
        name,
        bytesRead / 1e6 / median(seconds.map(({ wall }) => wall)),
      ]),
    );
    table(
      ["type", ">MB/s", ">× cp", ">× cp + flush"],
      [...rates].map(([name, mbs]) => [
        name,
        rate(mbs),
        (mbs / rates.get("cp")).toFixed(2),
        (mbs / rates.get("cp + flush")).toFixed(2),
      ]),
    );
  },
  export(results) {
    table(
      ["dtype", ">MB/s", "GGUF", ">MB/s", ">ratio"],
      results.map(({ dtype, type, bytesRead, onnxSeconds, ggufSeconds }) => [
        dtype,
        rate(bytesRead / 1e6 / onnxSeconds),
        type,
        rate(bytesRead / 1e6 / ggufSeconds),
        (ggufSeconds / onnxSeconds).toFixed(2),
      ]),
    );
  },
  decode(results) {
    const by = new Map(results.map((result) => [result.name, result]));
    table(
      ["what", ">prompt, tokens/s", ">decoding, tokens/s", ">peak MiB", "decoding beside"],
      results.map(({ name, beside, prompt, generation, peakMemory }) => [
        name,
        prompt.toFixed(1),
        generation.toFixed(1),
        (peakMemory / 2 ** 20).toFixed(0),
        beside.map((other) => `${(generation / by.get(other).generation).toFixed(2)} × ${other}`).join(", "),
      ]),
    );
  },
};

for (const [name, print] of Object.entries(printers)) {
  const path = join(folder, `${name}.json`);
  if (!existsSync(path)) continue;
  const { machine, results } = JSON.parse(readFileSync(path, "utf8"));
  console.log(`## ${name} (${machine.processor}, Node ${machine.node}, load ${machine.load.toFixed(1)})\n`);
  print(results);
}
