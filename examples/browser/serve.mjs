// Serves a package and the page that runs it, on this machine only:
//
//   node examples/browser/serve.mjs PACKAGE [--port 8080]
import { createReadStream } from "node:fs";
import { realpath, stat } from "node:fs/promises";
import { createServer } from "node:http";
import { createRequire } from "node:module";
import { dirname, extname, join, sep } from "node:path";
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";
import { Misuse, readPackage } from "./package.mjs";

const here = dirname(fileURLToPath(import.meta.url));

/** Files of the page, by the path that they are asked for. */
const PAGE = {
  "/": "index.html",
  "/style.css": "style.css",
  "/page.js": "page.js",
  "/worker.js": "worker.js",
};

const TYPES = {
  ".css": "text/css; charset=utf-8",
  ".html": "text/html; charset=utf-8",
  ".jinja": "text/plain; charset=utf-8",
  ".js": "text/javascript; charset=utf-8",
  ".json": "application/json; charset=utf-8",
  ".mjs": "text/javascript; charset=utf-8",
  ".wasm": "application/wasm",
};

const HEADERS = {
  // Only isolated pages have SharedArrayBuffer, without which WebAssembly has one thread.
  "Cross-Origin-Opener-Policy": "same-origin",
  "Cross-Origin-Embedder-Policy": "require-corp",
  "Cross-Origin-Resource-Policy": "same-origin",
  // Nothing is fetched from another host, whatever a library would like to.
  "Content-Security-Policy":
    "default-src 'none'; script-src 'self' 'wasm-unsafe-eval'; worker-src 'self'; connect-src 'self'; " +
    "style-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
  "X-Content-Type-Options": "nosniff",
  "Referrer-Policy": "no-referrer",
  // A package is often written again while the page is open.
  "Cache-Control": "no-store",
};

/** Files of ONNX Runtime's two builds that worker.js asks for: without and with WebGPU. */
const builds = new Set(
  ["ort-wasm-simd-threaded", "ort-wasm-simd-threaded.asyncify"].flatMap((build) => [
    `${build}.mjs`,
    `${build}.wasm`,
  ]),
);

/** Where transformers.js lies and, seen from there, the files of ONNX Runtime that belong to it. */
function runtimeFiles() {
  try {
    const entry = createRequire(import.meta.url).resolve("@huggingface/transformers");
    const fromThere = createRequire(entry);
    return (name) => {
      if (name === "transformers.js") return join(dirname(entry), "transformers.min.js");
      return builds.has(name) ? fromThere.resolve(`onnxruntime-web/${name}`) : undefined;
    };
  } catch {
    throw new Misuse(
      "@huggingface/transformers is not installed here. npm install @huggingface/transformers@4 adds it.",
    );
  }
}

/** A file of the package by its path in a URL; undefined when it is not there or leads out of the folder. */
async function packageFile(root, name) {
  if (name.includes("\0") || name.includes("\\")) return undefined;
  const path = await realpath(join(root, name)).catch(() => undefined);
  return path?.startsWith(`${root}${sep}`) === true ? path : undefined;
}

function send(response, status, type, body) {
  const bytes = Buffer.from(body);
  response.writeHead(status, { ...HEADERS, "Content-Type": type, "Content-Length": bytes.length });
  response.end(response.req.method === "HEAD" ? undefined : bytes);
}

const refuse = (response, status, text) => send(response, status, "text/plain; charset=utf-8", `${text}\n`);

async function sendFile(response, path) {
  const found = path === undefined ? undefined : await stat(path).catch(() => undefined);
  if (found?.isFile() !== true) return refuse(response, 404, "There is no such file.");
  const type = TYPES[extname(path)] ?? "application/octet-stream";
  response.writeHead(200, { ...HEADERS, "Content-Type": type, "Content-Length": found.size });
  if (response.req.method === "HEAD") return response.end();
  // A file that breaks off has to look broken to the page: the connection goes, not just the rest.
  return createReadStream(path)
    .once("error", () => response.destroy())
    .pipe(response);
}

/** The path that a request asks for, decoded once; undefined when it cannot be decoded. */
function requested(url) {
  try {
    return decodeURIComponent(url.split("?")[0]);
  } catch {
    return undefined;
  }
}

async function answer(request, response, { root, name, choices }, runtimeFile) {
  const { port } = request.socket.address();
  // Another site can have its name point here, and would then read the package.
  if (![`127.0.0.1:${port}`, `localhost:${port}`].includes(request.headers.host)) {
    return refuse(response, 403, "This server answers to 127.0.0.1 and localhost only.");
  }
  if (!["GET", "HEAD"].includes(request.method)) {
    return refuse(response, 405, "Only GET and HEAD are answered.");
  }
  const path = requested(request.url);
  if (path === undefined) return refuse(response, 400, "The path is not valid.");
  if (Object.hasOwn(PAGE, path)) return sendFile(response, join(here, PAGE[path]));
  if (path === "/about.json") return send(response, 200, TYPES[".json"], JSON.stringify({ name, choices }));
  const [, folder, rest] = /^\/(runtime|models\/package)\/(.+)$/s.exec(path) ?? [];
  if (folder === "runtime") return sendFile(response, runtimeFile(rest));
  return sendFile(response, folder === undefined ? undefined : await packageFile(root, rest));
}

function parseCommandLine() {
  try {
    const { values, positionals } = parseArgs({
      allowPositionals: true,
      options: { port: { type: "string", default: "8080" } },
    });
    const port = Number(values.port);
    if (!/^[0-9]+$/.test(values.port) || port > 65_535) {
      throw new Error(`--port is ${values.port}, expected 0 (any free one) to 65535.`);
    }
    if (positionals.length !== 1) throw new Error("Expected one package folder.");
    return { folder: positionals[0], port };
  } catch (error) {
    throw new Misuse(`${error.message}\nUsage: node examples/browser/serve.mjs PACKAGE [--port 8080]`);
  }
}

async function main() {
  const { folder, port } = parseCommandLine();
  const contents = await readPackage(folder);
  const runtimeFile = runtimeFiles();
  const server = createServer((request, response) => {
    answer(request, response, contents, runtimeFile).catch((error) => {
      console.error(`${request.url}: ${error.message}`);
      if (response.headersSent) response.destroy();
      else refuse(response, 500, error.message);
    });
  });
  server.once("error", (error) => {
    console.error(
      error.code === "EADDRINUSE" ? `Port ${port} is taken: pass another with --port.` : error.message,
    );
    process.exitCode = 1;
  });
  server.listen(port, "127.0.0.1", () => {
    console.log(`${contents.name}: http://127.0.0.1:${server.address().port}/ (Ctrl-C ends it)`);
  });
}

main().catch((error) => {
  console.error(error.message);
  process.exitCode = error instanceof Misuse ? 2 : 1;
});
