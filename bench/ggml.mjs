// ggml's own encoders for the benches: the library that npm ships, and the same sources compiled for this machine.
import { execFileSync } from "node:child_process";
import { existsSync, mkdirSync, mkdtempSync, renameSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { promisify } from "node:util";
import koffi from "koffi";
import { packageRoot } from "../dist/src/base/paths.js";
import { blockType } from "../dist/src/blocks/table.js";
import { locateLlama } from "../dist/src/engines/llama/platform.js";

/** Without an importance ggml ends the process for these, or (IQ1_M) takes the squares of the values, which loses more. */
export const NEEDY = new Set(["IQ1_S", "IQ1_M", "IQ2_XXS", "IQ2_XS"]);

/**
 * `ggml_quantize_chunk` of a library, on a thread of koffi's pool: ggml is SSE code, and on the thread that ran
 * JavaScript or WebAssembly before (AVX code) it was seen to take up to three times as long.
 */
function encoder(path) {
  const call = promisify(
    koffi
      .load(path)
      .func(
        "size_t ggml_quantize_chunk(int, const float *, void *, int64_t, int64_t, int64_t, const float *)",
      ).async,
  );
  return (type, values, out, count, row, importance) =>
    call(blockType(type).id, values, out, 0n, BigInt(count / row), BigInt(row), importance ?? null);
}

/** The encoder of the installed library. */
export function shippedGgml() {
  return encoder(locateLlama().libraries.base);
}

const C_FILES = ["ggml.c", "ggml-alloc.c", "ggml-quants.c"];
const CPP_FILES = [
  "ggml.cpp",
  "ggml-backend.cpp",
  "ggml-backend-meta.cpp",
  "ggml-opt.cpp",
  "ggml-threading.cpp",
  "gguf.cpp",
];

/**
 * The encoder compiled with `-O3 -march=native` from the sources that `npm run test:peer` has fetched; npm's
 * library is for any x86-64 processor. Compiled once, in half a minute.
 */
export function nativeGgml() {
  const version = locateLlama().package.split(" ").at(-1) ?? "";
  const cache = join(packageRoot, ".cache", "peer", version);
  const library = join(cache, "libggml-native.so");
  if (!existsSync(library)) compile(join(cache, "llama.cpp", "ggml"), cache, library);
  return encoder(library);
}

function compile(sources, cache, library) {
  if (!existsSync(sources)) {
    throw new Error(`llama.cpp's sources are not in ${sources}; run npm run test:peer once`);
  }
  mkdirSync(cache, { recursive: true });
  const folder = mkdtempSync(join(cache, "native."));
  try {
    writeFileSync(
      join(folder, "ggml-version.h"),
      '#define GGML_VERSION "native"\n#define GGML_COMMIT "native"\n',
    );
    const common = ["-c", "-O3", "-march=native", "-fPIC", "-D_GNU_SOURCE"];
    const include = [`-I${folder}`, `-I${join(sources, "include")}`, `-I${join(sources, "src")}`];
    for (const file of [...C_FILES, ...CPP_FILES]) {
      const [compiler, standard] = file.endsWith(".c") ? ["gcc", "-std=gnu11"] : ["g++", "-std=c++17"];
      const object = join(folder, `${file}.o`);
      execFileSync(compiler, [...common, standard, ...include, join(sources, "src", file), "-o", object]);
    }
    const objects = [...C_FILES, ...CPP_FILES].map((file) => join(folder, `${file}.o`));
    execFileSync("g++", ["-shared", "-o", join(folder, "made.so"), ...objects, "-lpthread", "-lm"]);
    renameSync(join(folder, "made.so"), library);
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
}

/** Normal values from a fixed seed. */
export function normalValues(count, scale) {
  let state = 1;
  const uniform = () => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    return (state + 0.5) / 2 ** 32;
  };
  return Float32Array.from(
    { length: count },
    () => scale * Math.sqrt(-2 * Math.log(uniform())) * Math.cos(2 * Math.PI * uniform()),
  );
}
