import { readFileSync } from "node:fs";
import { spawnSync } from "node:child_process";
import { mkdir, rm, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { externalTensor, graph, node, valueInfo } from "../../../formats/onnx/build.js";
import type { GraphProto } from "../../../formats/onnx/types.js";
import { builtUrl, packageRoot } from "../../../src/base/paths.js";
import { startOnnxEngine } from "../../../src/engines/onnx/engine.js";
import { RUNTIME_PACKAGE } from "../../../src/engines/onnx/runtime.js";
import type { OnnxEngine, TensorValue } from "../../../src/engines/onnx/types.js";
import { temporaryFolder } from "../../formats/gguf/support.js";
import { encoded, hasRuntime, identity, power, refusal } from "./support.js";

const pair = (...values: number[]): TensorValue => ({
  type: "float32",
  dims: [values.length / 2, 2],
  data: Float32Array.from(values),
});

/** y = x + w, with w in a file. */
const addition = (): GraphProto =>
  graph("addition", [node("Add", { inputs: ["x", "w"], outputs: ["y"] })], {
    inputs: [valueInfo("x", "FLOAT", ["n", 2])],
    outputs: [valueInfo("y", "FLOAT", ["n", 2])],
    initializers: [externalTensor("w", "FLOAT", [2], { location: "data/w.bin", offset: 4, length: 8 })],
  });

/** A folder with the data file of `addition`: a word of something else, then 10 and 20. */
async function dataFolder(): Promise<string> {
  const folder = temporaryFolder();
  await mkdir(join(folder, "data"));
  await writeFile(join(folder, "data", "w.bin"), new Uint8Array(Float32Array.of(-1, 10, 20).buffer));
  return folder;
}

describe.skipIf(!hasRuntime)("a graph in ONNX Runtime", () => {
  let engine: OnnxEngine;

  beforeAll(async () => {
    engine = await startOnnxEngine();
  });
  afterAll(() => engine.close());

  const open = async (graph: GraphProto, name = "m.onnx"): Promise<number> =>
    (await engine.open({ model: await encoded(graph), name, threads: 1 })).session;

  it("says what it is", async () => {
    expect(await engine.info()).toEqual({
      name: `ONNX Runtime ${RUNTIME_PACKAGE.version} (onnxruntime-node)`,
      version: RUNTIME_PACKAGE.version,
    });
    const manifest = JSON.parse(readFileSync(join(packageRoot, "package.json"), "utf8")) as {
      optionalDependencies: Record<string, string>;
    };
    expect(manifest.optionalDependencies[RUNTIME_PACKAGE.name]).toBe(RUNTIME_PACKAGE.version);
    expect(await engine.peakMemory()).toBeGreaterThan(20e6);
  });

  it("has its data in a folder when it comes as bytes, and beside it when it comes as a path", async () => {
    const folder = await dataFolder();
    const bytes = await encoded(addition());
    await writeFile(join(folder, "m.onnx"), bytes);
    for (const source of [{ model: bytes, folder }, { model: join(folder, "m.onnx") }]) {
      const opened = await engine.open({ ...source, threads: 1, prepack: false, optimization: "none" });
      expect(opened.inputs).toEqual([{ name: "x", type: "float32", shape: ["n", 2] }]);
      expect(opened.outputs).toEqual([{ name: "y", type: "float32", shape: ["n", 2] }]);
      const { y } = await engine.run(opened.session, { feeds: { x: pair(1, 2, 3, 4) }, fetch: ["y"] });
      expect(y).toEqual(pair(11, 22, 13, 24));
      await engine.close(opened.session);
    }
    await rm(join(folder, "data"), { recursive: true });
    const missing = await refusal(engine.open({ model: join(folder, "m.onnx"), threads: 1 }), "engine-load");
    expect(missing.message).toContain(join(folder, "m.onnx"));
    expect(missing.message).toContain("w.bin");
  });

  it("takes and gives every type", async () => {
    const values: readonly TensorValue[] = [
      pair(1.5, -0),
      { type: "float16", dims: [1, 2], data: Uint16Array.of(0x3c00, 0xfe01) },
      { type: "int64", dims: [1, 2], data: BigInt64Array.of(-(2n ** 63n), 5n) },
      { type: "int32", dims: [1, 2], data: Int32Array.of(-(2 ** 31), 7) },
      { type: "bool", dims: [1, 2], data: Uint8Array.of(1, 0) },
      { type: "uint8", dims: [1, 2], data: Uint8Array.of(255, 0) },
      { type: "float16", dims: [0, 2], data: new Uint16Array(0) },
    ];
    const names = {
      float32: "FLOAT",
      float16: "FLOAT16",
      int64: "INT64",
      int32: "INT32",
      bool: "BOOL",
      uint8: "UINT8",
    } as const;
    for (const value of values) {
      const session = await open(identity(names[value.type]));
      const { y } = await engine.run(session, { feeds: { x: value }, fetch: ["y"] });
      expect(y).toEqual(value);
    }
    const session = await open(identity("INT8"));
    const run = engine.run(session, { feeds: { x: pair(1, 2) }, fetch: ["y"] });
    expect((await refusal(run, "engine-fetch")).message).toContain("the output y is of type int8");
  });

  it("copies what it is fed with, or takes it over", async () => {
    const session = await open(identity("FLOAT"));
    const run = async (data: Float32Array, transfer?: boolean): Promise<TensorValue | undefined> => {
      const x = { type: "float32", dims: [1, 2], data } as const;
      const options = transfer === undefined ? {} : { transfer };
      return (await engine.run(session, { feeds: { x }, fetch: ["y"], ...options }))["y"];
    };
    const large = Float32Array.of(1, 2, 3, 4);
    const whole = Float32Array.of(5, 6);
    expect(await run(whole)).toEqual(pair(5, 6));
    expect(await run(large.subarray(2), true)).toEqual(pair(3, 4));
    expect(large).toHaveLength(4);
    expect(await run(whole, true)).toEqual(pair(5, 6));
    expect(whole).toHaveLength(0);
    const shared = new Float32Array(new SharedArrayBuffer(8)).fill(2);
    expect(await run(shared, true)).toEqual(pair(2, 2));
  });

  it("keeps outputs for later runs of any session", async () => {
    const folder = await dataFolder();
    const options = { model: await encoded(addition()), folder, threads: 1 };
    const { session: add } = await engine.open(options);
    const same = await open(identity("FLOAT"));
    const first = await engine.run(add, { feeds: { x: pair(1, 2) }, fetch: [], keep: { y: "sum" } });
    expect(first).toEqual({});
    const sum = { x: { kept: "sum" } };
    const again = await engine.run(add, { feeds: sum, fetch: ["y"], keep: { y: "sum" } });
    expect(again["y"]).toEqual(pair(21, 42));
    expect((await engine.run(same, { feeds: sum, fetch: ["y"] }))["y"]).toEqual(pair(21, 42));
    await engine.close(add);
    expect((await engine.run(same, { feeds: sum, fetch: ["y"] }))["y"]).toEqual(pair(21, 42));
    await engine.drop(["sum", "never"]);
    const gone = await refusal(engine.run(same, { feeds: sum, fetch: ["y"] }), "engine-kept");
    expect(gone.message).toBe("m.onnx: the input x is to be fed with sum, but no such value is kept.");
  });

  it("names the input or output that does not fit, and stays usable", async () => {
    const session = await open(identity("FLOAT"));
    const x = pair(1, 2);
    const half = { type: "float16", dims: [1, 2], data: Uint16Array.of(0, 0) } as const;
    const cases: readonly [Record<string, TensorValue>, string[], string, string][] = [
      [{}, ["y"], "engine-feed", "m.onnx: the input x is not fed."],
      [{ x, z: x }, ["y"], "engine-feed", "m.onnx has no input z, its inputs are x."],
      [{ x: half }, ["y"], "engine-feed", "m.onnx: the input x is fed with float16, expected float32."],
      [
        { x: { ...x, dims: [2, 1] } },
        ["y"],
        "engine-feed",
        "m.onnx: the input x is fed with the shape [2, 1], expected [n, 2].",
      ],
      [
        { x: { ...x, dims: [2] } },
        ["y"],
        "engine-feed",
        "m.onnx: the input x is fed with the shape [2], expected [n, 2].",
      ],
      [
        { x: { ...x, dims: [2, 2] } },
        ["y"],
        "engine-tensor",
        "m.onnx: the input x is given the shape [2, 2] and 2 values, which do not agree.",
      ],
      [
        { x: { ...half, type: "float32" } as unknown as TensorValue },
        ["y"],
        "engine-tensor",
        "m.onnx: the input x is given as float32 without a Float32Array of values.",
      ],
      [
        { x: { ...half, type: "int8" } as unknown as TensorValue },
        ["y"],
        "engine-tensor",
        "m.onnx: the input x is given as int8, expected one of float32, float16, int64, int32, bool, uint8.",
      ],
      [{ x }, ["z"], "engine-fetch", "m.onnx has no output z, its outputs are y."],
      [{ x }, [], "engine-fetch", "m.onnx: no output is asked for."],
    ];
    for (const [feeds, fetch, code, message] of cases) {
      expect((await refusal(engine.run(session, { feeds, fetch }), code)).message).toBe(message);
    }
    const square = await open(power(2), "square.onnx");
    const run = engine.run(square, { feeds: { x: pair(1, 2) }, fetch: ["y0"] });
    const error = await refusal(run, "engine-run");
    expect(error.message).toMatch(/^square\.onnx: ONNX Runtime does not run the model: .*MatMul/);
    expect((await engine.run(session, { feeds: { x }, fetch: ["y"] }))["y"]).toEqual(x);
    await engine.close(session);
    await refusal(engine.run(session, { feeds: { x }, fetch: ["y"] }), "engine-handle");
    await refusal(engine.close(session), "engine-handle");
  });

  it("is refused in the runtime's words when it is damaged or not there", async () => {
    const bytes = await encoded(identity("FLOAT"));
    const load = async (model: Uint8Array | string): Promise<string> => {
      const source = typeof model === "string" ? { model } : { model, name: "bad.onnx" };
      return (await refusal(engine.open({ ...source, threads: 1 }), "engine-load")).message;
    };
    const start = "bad.onnx: ONNX Runtime does not load the model: ";
    expect(await load(bytes.subarray(0, 40))).toBe(
      `${start}Failed to load model because protobuf parsing failed.`,
    );
    expect(await load(new Uint8Array(0))).toContain(start);
    expect(await load("/absent/m.onnx")).toContain("File doesn't exist");
    const odd = graph("odd", [node("NoSuchOperator", { inputs: ["x"], outputs: ["y"] })], {
      inputs: [valueInfo("x", "FLOAT", [1])],
      outputs: [valueInfo("y", "FLOAT", [1])],
    });
    expect(await load(await encoded(odd))).toContain("NoSuchOperator");
    for (const threads of [0, 1.5, 513]) {
      expect(await refusal(engine.open({ model: bytes, threads }), "engine-threads")).toMatchObject({
        exitCode: 2,
      });
    }
  });

  it("is optimized, written and set as asked", async () => {
    const path = join(temporaryFolder(), "optimized.onnx");
    const twice = graph(
      "twice",
      [
        node("Identity", { inputs: ["x"], outputs: ["a"] }),
        node("Neg", { inputs: ["a"], outputs: ["b"] }),
        node("Identity", { inputs: ["b"], outputs: ["y"] }),
      ],
      { inputs: [valueInfo("x", "FLOAT", ["n"])], outputs: [valueInfo("y", "FLOAT", ["n"])] },
    );
    const model = await encoded(twice);
    const written = async (optimization: "all" | "none"): Promise<string> => {
      await engine.open({ model, threads: 2, optimization, optimizedModelPath: path });
      return readFileSync(path, "latin1");
    };
    expect(await written("none")).toContain("Identity");
    expect(await written("all")).not.toContain("Identity");
    const settings = { "session.model_external_initializers_file_folder_path": await dataFolder() };
    await engine.open({ model: await encoded(addition()), threads: 1, settings });
  });
});

describe.skipIf(!hasRuntime)("ONNX Runtime's thread", () => {
  /** About a second of work: 70 billion operations. */
  const LONG = { factors: 80, columns: 768 };
  const start = async (): Promise<{
    engine: OnnxEngine;
    run: (signal?: AbortSignal) => Promise<unknown>;
  }> => {
    const engine = await startOnnxEngine();
    const { session, outputs } = await engine.open({
      model: await encoded(power(LONG.factors)),
      threads: 1,
      optimization: "none",
    });
    const { columns } = LONG;
    return {
      engine,
      run: (signal) =>
        engine.run(session, {
          feeds: {
            x: { type: "float32", dims: [columns, columns], data: new Float32Array(columns ** 2) },
          },
          fetch: [outputs[0]!.name],
          ...(signal === undefined ? {} : { signal }),
        }),
    };
  };

  it("leaves the main thread free, and works one call after the other", async () => {
    const { engine, run } = await start();
    let ticks = 0;
    const timer = setInterval(() => ticks++, 5);
    const order: string[] = [];
    await Promise.all([
      run().then(() => order.push("run")),
      engine.peakMemory().then(() => order.push("peakMemory")),
    ]);
    clearInterval(timer);
    expect(order).toEqual(["run", "peakMemory"]);
    expect(ticks).toBeGreaterThan(5);
    await engine.close();
  });

  it("ends when a call is aborted, rejects at once with the reason, and leaves the process alive", async () => {
    const { engine, run } = await start();
    const stop = new AbortController();
    const reason = new Error("enough");
    let returned = false;
    const aborted = run(stop.signal);
    const other = refusal(engine.peakMemory(), "engine-closed");
    setTimeout(() => stop.abort(reason), 50);
    await expect(aborted).rejects.toBe(reason);
    await other;
    const closed = engine.close().then(() => (returned = true));
    expect(returned).toBe(false);
    await closed;
    await refusal(engine.peakMemory(), "engine-closed");
    const late = await startOnnxEngine();
    const model = await encoded(identity("FLOAT"));
    await expect(late.open({ model, threads: 1, signal: stop.signal })).rejects.toBe(reason);
    expect((await late.open({ model, threads: 1 })).session).toBe(1);
    await late.close();
  });

  it("rejects the calls under way when it is closed, and closes twice", async () => {
    const { engine, run } = await start();
    const running = refusal(run(), "engine-closed");
    await engine.close();
    expect((await running).message).toBe("The engine was closed.");
    await engine.close();
  });

  it("lets a process that exits in the middle of a run do so with its own exit code", async () => {
    const model = join(temporaryFolder(), "m.onnx");
    await writeFile(model, await encoded(power(LONG.factors)));
    const { href } = builtUrl(import.meta.url, "../../../src/engines/onnx/engine.js");
    const script = `
      import { startOnnxEngine } from ${JSON.stringify(href)};
      const engine = await startOnnxEngine();
      const { session, outputs } = await engine.open({ model: ${JSON.stringify(model)}, threads: 1, optimization: "none" });
      const data = new Float32Array(${LONG.columns ** 2});
      engine.run(session, { feeds: { x: { type: "float32", dims: [${LONG.columns}, ${LONG.columns}], data } }, fetch: [outputs[0].name] })
        .then(() => process.exit(1));
      setTimeout(() => process.exit(7), 100);`;
    const { status, stderr } = spawnSync(process.execPath, ["--input-type=module", "-e", script], {
      encoding: "utf8",
    });
    expect({ status, stderr }).toEqual({ status: 7, stderr: "" });
  });
});

describe("a thread without ONNX Runtime", () => {
  /** A module that stands for onnxruntime-node and does something else when a model is opened. */
  const double = (create: string): string =>
    `data:text/javascript,${encodeURIComponent(
      `export default { env: { versions: { node: "0" } }, Tensor: class {}, InferenceSession: { create() { ${create} } } };`,
    )}`;
  const options = { model: Uint8Array.of(1), threads: 1 };

  it("says how to install it", async () => {
    const error = await refusal(startOnnxEngine({ module: "onnxruntime-absent" }), "engine-missing");
    expect(error.message).toBe("The optional package onnxruntime-absent is not installed.");
    expect(error.advice).toContain("ONNXRUNTIME_NODE_INSTALL=skip npm install onnxruntime-node@1.30.0");
  });

  it("says why it does not load", async () => {
    const broken = "data:text/javascript,throw new Error('no library for this system')";
    const error = await refusal(startOnnxEngine({ module: broken }), "engine-library");
    expect(error.message).toContain("no library for this system");
    expect(error.advice).toContain("onnxruntime-node@1.30.0");
    const other = await refusal(startOnnxEngine({ module: "node:os" }), "engine-library");
    expect(other.message).toBe("node:os is not a build of ONNX Runtime for Node.");
  });

  it("reports its own death to the calls under way and to later ones", async () => {
    const engine = await startOnnxEngine({ module: double("process.exit(3)") });
    const open = refusal(engine.open(options), "engine-crashed");
    const behind = refusal(engine.peakMemory(), "engine-crashed");
    expect((await open).message).toBe(
      "ONNX Runtime's thread ended with exit code 3 during open, peakMemory.",
    );
    await behind;
    await refusal(engine.peakMemory(), "engine-crashed");
    await engine.close();
  });

  it("reports what was thrown where nobody catches it", async () => {
    const thrown = double(
      "return new Promise(() => setImmediate(() => { throw new Error('out of nowhere'); }))",
    );
    const engine = await startOnnxEngine({ module: thrown });
    const error = await refusal(engine.open(options), "engine-crashed");
    expect(error.message).toBe("ONNX Runtime's thread failed: out of nowhere.");
    await engine.close();
  });
});
