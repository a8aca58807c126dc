import { spawnSync } from "node:child_process";
import { mkdirSync, readFileSync, symlinkSync, writeFileSync } from "node:fs";
import { request } from "node:http";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { serve, type Served, serveScript } from "../support/browser-example.js";
import { scratchFolder } from "../support/convert.js";

interface Reply {
  readonly status: number | undefined;
  readonly headers: NodeJS.Dict<string | string[]>;
  readonly body: string;
}

/** A request with the path as it stands: `fetch` would take the dots out. */
function ask(url: string, path: string, options: { method?: string; host?: string } = {}): Promise<Reply> {
  const { hostname, port, host } = new URL(url);
  const headers = { host: options.host ?? host };
  return new Promise((resolve, reject) => {
    const sent = request({ hostname, port, path, method: options.method ?? "GET", headers }, (reply) => {
      const parts: Buffer[] = [];
      reply.on("data", (part: Buffer) => parts.push(part));
      reply.on("end", () => {
        const body = Buffer.concat(parts).toString("utf8");
        resolve({ status: reply.statusCode, headers: reply.headers, body });
      });
    });
    sent.on("error", reject);
    sent.end();
  });
}

/** A folder with the names of a package; `dtypes` by graph goes into config.json. */
function makePackage(graphs: readonly string[], dtype?: Record<string, string>): string {
  const outer = scratchFolder();
  const folder = join(outer, "model");
  mkdirSync(join(folder, "onnx"), { recursive: true });
  writeFileSync(join(outer, "secret"), "secret");
  writeFileSync(join(folder, "config.json"), JSON.stringify({ "transformers.js_config": { dtype } }));
  for (const graph of graphs) writeFileSync(join(folder, "onnx", `${graph}.onnx`), graph);
  return folder;
}

describe("the server of the browser example", () => {
  let folder: string;
  let server: Served;

  beforeAll(async () => {
    folder = makePackage(
      [
        "embed_tokens_q4",
        "decoder_model_merged_q4",
        "embed_tokens_quantized",
        "decoder_model_merged_quantized",
      ],
      { embed_tokens: "q8", decoder_model_merged: "q4" },
    );
    symlinkSync(join(folder, "..", "secret"), join(folder, "link"));
    server = await serve(folder);
  });

  afterAll(() => server?.stop());

  test("serves the page, the libraries and the package under the headers that threads need", async () => {
    const types: Record<string, string> = {
      "/": "text/html; charset=utf-8",
      "/page.js?threads=2": "text/javascript; charset=utf-8",
      "/style.css": "text/css; charset=utf-8",
      "/runtime/transformers.js": "text/javascript; charset=utf-8",
      "/runtime/ort-wasm-simd-threaded.mjs": "text/javascript; charset=utf-8",
      "/models/package/config.json": "application/json; charset=utf-8",
      "/models/package/onnx/embed_tokens_q4.onnx": "application/octet-stream",
    };
    for (const [path, type] of Object.entries(types)) {
      const { status, headers } = await ask(server.url, path);
      expect([path, status, headers["content-type"]]).toEqual([path, 200, type]);
      expect(headers["cross-origin-opener-policy"]).toBe("same-origin");
      expect(headers["cross-origin-embedder-policy"]).toBe("require-corp");
      expect(headers["content-security-policy"]).toContain("connect-src 'self'");
    }
    const wasm = await ask(server.url, "/runtime/ort-wasm-simd-threaded.wasm", { method: "HEAD" });
    expect(wasm.headers["content-type"]).toBe("application/wasm");
    expect(Number(wasm.headers["content-length"])).toBeGreaterThan(1e6);
    expect(wasm.body).toBe("");
    const { body } = await ask(server.url, "/models/package/onnx/embed_tokens_q4.onnx");
    expect(body).toBe("embed_tokens_q4");
  });

  test("names what can be loaded, first what config.json says", async () => {
    const { body } = await ask(server.url, "/about.json");
    expect(JSON.parse(body)).toEqual({
      name: "model",
      choices: [
        { label: "q4, embeddings q8", dtype: { embed_tokens: "q8", decoder_model_merged: "q4" } },
        { label: "q8", dtype: "q8" },
        { label: "q4", dtype: "q4" },
      ],
    });
  });

  test.each([
    "/models/package/../secret",
    "/models/package/%2e%2e/secret",
    "/models/package/..%2fsecret",
    "/models/package/..%5csecret",
    "/models/package/%2e%2e%2f%2e%2e%2f%2e%2e%2f%2e%2e%2fetc/passwd",
    "/models/package//etc/passwd",
    "/models/package/link",
    "/models/package/onnx",
    "/models/package/config.json%00",
    "/models/package/",
    "/models/other/config.json",
    "/runtime/../package.json",
    "/runtime/ort-wasm-/../../package.mjs",
    "/runtime/ort-wasm-none.wasm",
    "/serve.mjs",
    "/constructor",
    "/missing",
  ])("does not give out %s", async (path) => {
    const { status, body } = await ask(server.url, path);
    expect(status).toBe(404);
    expect(body).toBe("There is no such file.\n");
  });

  test("answers nothing to other methods, names and broken paths", async () => {
    expect((await ask(server.url, "/%zz")).status).toBe(400);
    expect((await ask(server.url, "/", { method: "POST" })).status).toBe(405);
    const { port } = new URL(server.url);
    expect((await ask(server.url, "/about.json", { host: `elsewhere.example:${port}` })).status).toBe(403);
    expect((await ask(server.url, "/about.json", { host: `localhost:${port}` })).status).toBe(200);
  });
});

describe("its command line", () => {
  const run = (...argv: string[]) =>
    spawnSync(process.execPath, [serveScript, ...argv], { encoding: "utf8" });

  test.each([
    ["no folder", [], /Expected one package folder.*\nUsage: /],
    [
      "a port that is none",
      ["x", "--port", "70000"],
      /--port is 70000, expected 0 \(any free one\) to 65535/,
    ],
    ["an unknown flag", ["x", "--ports", "1"], /'--ports'.*\n(.*\n)?Usage: /],
    ["a folder that is not there", ["missing-folder"], /missing-folder: there is no such folder/],
  ])("refuses %s", (_, argv, message) => {
    const { status, stderr } = run(...argv);
    expect(stderr).toMatch(message);
    expect(status).toBe(2);
  });

  test("refuses a folder without a pair of graphs, or without a readable config.json", () => {
    const unpaired = run(makePackage(["embed_tokens_q4", "decoder_model_merged_quantized"]));
    expect(unpaired.stderr).toMatch(/expected onnx\/embed_tokens\*\.onnx .* of one dtype.*lapidary convert/);
    expect(unpaired.status).toBe(2);
    const folder = makePackage(["embed_tokens", "decoder_model_merged"]);
    writeFileSync(join(folder, "config.json"), "[");
    const broken = run(folder);
    expect(broken.stderr).toContain(`${join(folder, "config.json")}: `);
    expect(broken.status).toBe(2);
  });

  test("says that the port is taken", async () => {
    const folder = makePackage(["embed_tokens", "decoder_model_merged"], { embed_tokens: "fp64" });
    const server = await serve(folder);
    try {
      const { port } = new URL(server.url);
      const { status, stderr } = run(folder, "--port", port);
      expect(stderr).toBe(`Port ${port} is taken: pass another with --port.\n`);
      expect(status).toBe(1);
      expect(readFileSync(join(folder, "config.json"), "utf8")).toContain("fp64");
    } finally {
      await server.stop();
    }
  });
});
