import {
  mkdirSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  symlinkSync,
  truncateSync,
  writeFileSync,
} from "node:fs";
import { dirname, join } from "node:path";
import { describe, expect, test } from "vitest";
import { FormatError } from "../../../formats/errors.js";
import {
  attr,
  externalTensor,
  graph,
  inlineTensor,
  model,
  node,
  valueInfo,
} from "../../../formats/onnx/build.js";
import { encodeModel } from "../../../formats/onnx/codec.js";
import type { ExternalData } from "../../../formats/onnx/external.js";
import type { ExternalDataLayout } from "../../../formats/onnx/plan.js";
import { openOnnx, TensorReader } from "../../../formats/onnx/read.js";
import type { ModelProto } from "../../../formats/onnx/types.js";
import { createOnnx, onnxPaths, planExternalData, reopenOnnx } from "../../../formats/onnx/write.js";
import { MemorySource, temporaryFolder } from "../gguf/support.js";
import { plainGraph } from "./support.js";

const sizes = { a: 12, b: 100, c: 64, d: 200 };

function tensorData(name: string): Uint8Array {
  const { length, seed } = { length: sizes[name as keyof typeof sizes], seed: name.charCodeAt(0) };
  return Uint8Array.from({ length }, (_, index) => seed * 31 + index);
}

function layoutFor(graphFile: string): ExternalDataLayout {
  const tensors = Object.entries(sizes).map(([name, byteLength]) => ({ name, byteLength }));
  return planExternalData(graphFile, tensors, { maxFileBytes: 256 });
}

/** A model with tensors outside, inside, in a nested graph and in an attribute. */
function modelFor(layout: ExternalDataLayout): ModelProto {
  const initializers = layout.tensors.map((tensor) =>
    externalTensor(tensor.name, "UINT8", [tensor.byteLength], tensor),
  );
  const constant = inlineTensor("", "INT64", [1], new Uint8Array(8));
  const inner = graph(
    "inner",
    [node("Constant", { inputs: [], outputs: ["k"], attributes: { value: attr.tensor(constant) } })],
    {
      outputs: [valueInfo("k", "INT64", [1])],
      initializers: [inlineTensor("half", "INT4", [3], Uint8Array.of(0x21, 3))],
    },
  );
  const nodes = [
    node("If", { inputs: ["x"], outputs: ["y"], attributes: { then_branch: attr.graph(inner) } }),
  ];
  return model(plainGraph(nodes, initializers), { opset: 21 });
}

async function write(path: string): Promise<ExternalDataLayout> {
  const layout = layoutFor("m.onnx");
  const output = await createOnnx(path, await encodeModel(modelFor(layout)), layout);
  for (const tensor of layout.tensors.toReversed())
    await output.writeTensorRange(tensor, 0, tensorData(tensor.name));
  await output.commit();
  return layout;
}

describe("files in the making", () => {
  test("are written in any order, and are what the reader finds", async () => {
    const folder = temporaryFolder();
    const path = join(folder, "m.onnx");
    const layout = layoutFor("m.onnx");
    const bytes = await encodeModel(modelFor(layout));
    const output = await createOnnx(path, bytes, layout);
    expect(output.parts.map((part) => part.path)).toEqual(onnxPaths(path, layout));
    expect(readdirSync(folder).toSorted()).toEqual([
      "m.onnx.partial",
      "m.onnx_data.partial",
      "m.onnx_data_1.partial",
    ]);
    const [a, b, c, d] = layout.tensors;
    await output.writeTensorRange(d!, 150, tensorData("d").subarray(150));
    await output.writeTensorRange(b!, 0, tensorData("b"));
    await output.writeTensorRange(d!, 0, tensorData("d").subarray(0, 150));
    await output.writeTensorRange(c!, 0, tensorData("c"));
    await output.writeTensorRange(a!, 0, tensorData("a"));
    await expect(output.writeTensorRange(a!, 1, tensorData("a"))).rejects.toThrow(RangeError);
    await output.sync();
    await output.commit();
    expect(readdirSync(folder).toSorted()).toEqual(["m.onnx", "m.onnx_data", "m.onnx_data_1"]);
    expect(readFileSync(path).equals(bytes)).toBe(true);

    const found = await openOnnx(path);
    expect(found).toMatchObject({ path, size: bytes.length, opset: 21 });
    expect([...found.dataFiles.values()]).toEqual([
      { location: "m.onnx_data", path: join(folder, "m.onnx_data"), size: 256 },
      { location: "m.onnx_data_1", path: join(folder, "m.onnx_data_1"), size: 200 },
    ]);
    expect(found.tensors.map(({ name, path, type, dims }) => [name, path, type, dims])).toEqual([
      ["a", "graph.initializer[0]", "UINT8", [12]],
      ["b", "graph.initializer[1]", "UINT8", [100]],
      ["c", "graph.initializer[2]", "UINT8", [64]],
      ["d", "graph.initializer[3]", "UINT8", [200]],
      ["half", "graph.node[0].attribute[0].g.initializer[0]", "INT4", [3]],
      ["", "graph.node[0].attribute[0].g.node[0].attribute[0].t", "INT64", [1]],
    ]);
    const reader = new TensorReader(found.dataFiles);
    for (const tensor of found.tensors.slice(0, 4)) {
      const target = new Uint8Array(tensor.byteLength);
      await reader.read(tensor, target);
      expect(target).toEqual(tensorData(tensor.name));
      await reader.read(tensor, target.subarray(0, 5), 7);
      expect(target.subarray(0, 5)).toEqual(tensorData(tensor.name).subarray(7, 12));
    }
    const half = new Uint8Array(1);
    await reader.read(found.tensors[4]!, half, 1);
    expect(half).toEqual(Uint8Array.of(3));
    for (const start of [-1, 2, 0.5]) {
      await expect(reader.read(found.tensors[4]!, half, start)).rejects.toMatchObject({ code: "onnx-range" });
    }
    await reader.close();
    await reader.close();
    const none = new TensorReader(new Map());
    await expect(none.read(found.tensors[0]!, half)).rejects.toMatchObject({ code: "onnx-range" });
    await none.close();
  });

  test("go on after a stop, and not when they are of another layout", async () => {
    const folder = temporaryFolder();
    const path = join(folder, "m.onnx");
    const layout = layoutFor("m.onnx");
    const bytes = await encodeModel(modelFor(layout));
    expect(await reopenOnnx(path, bytes, layout)).toBeUndefined();
    const output = await createOnnx(path, bytes, layout);
    const [a, b, c, d] = layout.tensors;
    await output.writeTensorRange(a!, 0, tensorData("a"));
    await output.writeTensorRange(d!, 0, tensorData("d"));
    await output.suspend();
    expect(await reopenOnnx(path, bytes.subarray(1), layout)).toBeUndefined();
    writeFileSync(output.parts[0]!.temporaryPath, new Uint8Array(bytes.length));
    const again = await reopenOnnx(path, bytes, layout);
    await again!.writeTensorRange(b!, 0, tensorData("b"));
    await again!.writeTensorRange(c!, 0, tensorData("c"));
    await again!.commit();
    const whole = temporaryFolder();
    await write(join(whole, "m.onnx"));
    for (const name of readdirSync(whole)) {
      expect(readFileSync(join(folder, name)).equals(readFileSync(join(whole, name)))).toBe(true);
    }
    await expect(createOnnx(path, bytes, layout)).rejects.toMatchObject({ code: "output-exists" });
    await (await createOnnx(path, bytes, layout, { overwrite: true })).abort();
    expect(readdirSync(folder)).toHaveLength(3);
  });

  test("are not made under a name that the graph does not know", async () => {
    const layout = layoutFor("m.onnx");
    const path = join(temporaryFolder(), "other.onnx");
    await expect(createOnnx(path, new Uint8Array(1), layout)).rejects.toMatchObject({ code: "onnx-name" });
  });
});

describe("data files", () => {
  async function folderWith(): Promise<{ folder: string; path: string }> {
    const folder = temporaryFolder();
    const path = join(folder, "m.onnx");
    await write(path);
    return { folder, path };
  }

  test("that are missing, cut off or no files are told by name", async () => {
    const { folder, path } = await folderWith();
    const second = join(folder, "m.onnx_data_1");
    truncateSync(second, 199);
    await expect(openOnnx(path)).rejects.toMatchObject({
      code: "onnx-truncated",
      message: `${second}: the data of graph.initializer[3] ends at byte 200, but the file has 199.`,
    });
    rmSync(second);
    await expect(openOnnx(path)).rejects.toMatchObject({ code: "onnx-data-missing", exitCode: 2 });
    mkdirSync(second);
    await expect(openOnnx(path)).rejects.toMatchObject({ code: "file-kind" });
    rmSync(second, { recursive: true });
    symlinkSync("m.onnx_data_1", second);
    await expect(openOnnx(path)).rejects.toMatchObject({ code: "onnx-data-missing" });
    await expect(openOnnx(join(folder, "none.onnx"))).rejects.toMatchObject({ code: "file-missing" });
  });

  test("may be links inside the folder, or lie with the graph where all are links", async () => {
    const { folder, path } = await folderWith();
    mkdirSync(join(folder, "deep"));
    renameSync(join(folder, "m.onnx_data"), join(folder, "deep", "blob"));
    symlinkSync(join("deep", "blob"), join(folder, "m.onnx_data"));
    expect((await openOnnx(path)).dataFiles.get("m.onnx_data")?.path).toBe(join(folder, "deep", "blob"));

    const snapshot = temporaryFolder();
    for (const name of ["m.onnx", "m.onnx_data", "m.onnx_data_1"])
      symlinkSync(join(folder, name), join(snapshot, name));
    expect((await openOnnx(join(snapshot, "m.onnx"))).dataFiles.size).toBe(2);
  });

  test("may not be links to elsewhere", async () => {
    const { folder, path } = await folderWith();
    const elsewhere = join(temporaryFolder(), "secret");
    renameSync(join(folder, "m.onnx_data"), elsewhere);
    symlinkSync(elsewhere, join(folder, "m.onnx_data"));
    await expect(openOnnx(path)).rejects.toMatchObject({ code: "onnx-location" });
    rmSync(join(folder, "m.onnx_data"));
    // A folder on the way is a link too.
    const layout = layoutFor("m.onnx");
    const [a] = layout.tensors;
    symlinkSync(dirname(elsewhere), join(folder, "sub"));
    const tensor = externalTensor("a", "UINT8", [12], { ...a!, location: "sub/secret" });
    writeFileSync(path, await encodeModel(model(plainGraph([], [tensor]), { opset: 21 })));
    await expect(openOnnx(path)).rejects.toMatchObject({ code: "onnx-location" });
  });

  test("of a brother folder with a longer name are elsewhere too", async () => {
    const root = temporaryFolder();
    mkdirSync(join(root, "m"));
    mkdirSync(join(root, "mm"));
    await write(join(root, "m", "m.onnx"));
    renameSync(join(root, "m", "m.onnx_data"), join(root, "mm", "data"));
    symlinkSync(join("..", "mm", "data"), join(root, "m", "m.onnx_data"));
    await expect(openOnnx(join(root, "m", "m.onnx"))).rejects.toMatchObject({ code: "onnx-location" });
  });

  const spans = async (folder: string, ...places: ExternalData[]): Promise<string> => {
    const path = join(folder, "s.onnx");
    const tensors = places.map((place, index) => externalTensor(`t${index}`, "UINT8", [place.length], place));
    writeFileSync(path, await encodeModel(model(plainGraph([], tensors), { opset: 21 })));
    return path;
  };
  const at = (offset: number, length: number, location = "d"): ExternalData => ({ location, offset, length });

  test("may be shared as a whole, and not in part", async () => {
    const folder = temporaryFolder();
    writeFileSync(join(folder, "d"), new Uint8Array(100));
    symlinkSync("d", join(folder, "e"));
    const sound = await spans(
      folder,
      at(50, 50),
      at(0, 50),
      at(50, 50),
      at(10, 0),
      at(50, 50, "e"),
      at(0, 50, "./d"),
    );
    expect((await openOnnx(sound)).tensors).toHaveLength(6);
    for (const second of [
      at(49, 2),
      at(0, 49),
      at(10, 10),
      at(0, 100),
      at(49, 1),
      at(0, 49, "e"),
      at(49, 1, "./d"),
    ]) {
      const path = await spans(folder, at(0, 50), second);
      await expect(openOnnx(path)).rejects.toMatchObject({ code: "onnx-overlap" });
    }
    const far = await spans(folder, at(2 ** 53 - 1, 1));
    await expect(openOnnx(far)).rejects.toMatchObject({ code: "onnx-truncated" });
  });

  test("are found through a source that is given", async () => {
    const layout = layoutFor("m.onnx");
    const bytes = await encodeModel(modelFor(layout));
    const asked: string[] = [];
    const open = async (path: string): Promise<MemorySource> => {
      asked.push(path);
      if (path.endsWith(".onnx")) return new MemorySource(bytes);
      if (path.endsWith("_data_1")) throw new FormatError("file-missing", "none");
      return new MemorySource(new Uint8Array(256));
    };
    const resolve = async (path: string, location: string): Promise<string> => new URL(location, path).href;
    await expect(openOnnx("https://host/x/m.onnx", { open, resolve })).rejects.toMatchObject({
      code: "file-missing",
    });
    expect(asked).toEqual([
      "https://host/x/m.onnx",
      "https://host/x/m.onnx_data",
      "https://host/x/m.onnx_data_1",
    ]);
  });
});

describe("tensors are not made", () => {
  test.each<[string, () => unknown, string]>([
    [
      "with too few bytes",
      () => inlineTensor("t", "INT4", [3], new Uint8Array(1)),
      "1 bytes, expected 2 of INT4",
    ],
    [
      "inside with many bytes",
      () => inlineTensor("t", "UINT8", [1025], new Uint8Array(1025)),
      "at most 1024",
    ],
    ["inside with texts", () => inlineTensor("t", "STRING", [1], new Uint8Array(0)), "STRING"],
    [
      "outside with another length",
      () => externalTensor("t", "FLOAT", [3], at2("d", 13)),
      "13 bytes, expected 12",
    ],
    ["outside with texts", () => externalTensor("t", "STRING", [1], at2("d", 0)), "STRING"],
    ["outside of the folder", () => externalTensor("t", "FLOAT", [3], at2("../d", 12)), "leads out of"],
    ["for an opset that is not supported", () => model(plainGraph([]), { opset: 20 }), "expected 21 to 26"],
  ])("%s", (_, make, says) => {
    expect(make).toThrow(says);
  });
});

function at2(location: string, length: number): ExternalData {
  return { location, offset: 0, length };
}
