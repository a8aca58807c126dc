import * as fc from "fast-check";
import onnxProto from "onnx-proto";
import { describe, expect, test } from "vitest";
import { decodeModel, encodeModel } from "../../../formats/onnx/codec.js";
import { elementType, ELEMENT_TYPES, elementTypeById } from "../../../formats/onnx/element-types.js";
import { OnnxError } from "../../../formats/onnx/errors.js";
import { MAX_NESTING } from "../../../formats/onnx/limits.js";
import { readOnnx } from "../../../formats/onnx/read.js";
import { ATTRIBUTE_TYPES, type GraphProto, type ModelProto } from "../../../formats/onnx/types.js";
import { campaignRuns } from "../../support/campaign.js";
import { MemorySource } from "../gguf/support.js";
import { anyModel, bare, everything, everything110, plainGraph, smallModel } from "./support.js";

const { onnx } = onnxProto;

describe("a model", () => {
  test("is read back the same, every field", async () => {
    const bytes = await encodeModel(everything);
    const again = await decodeModel(bytes, "m.onnx");
    expect(bare(again)).toEqual(bare(everything));
    expect(await encodeModel(again)).toEqual(bytes);
  });

  test("is read back the same, whatever it is", async () => {
    await fc.assert(
      fc.asyncProperty(anyModel, async (model) => {
        const bytes = await encodeModel(model);
        const again = await readOnnx(new MemorySource(bytes));
        expect(bare(again.model)).toEqual(bare(model));
        expect(await encodeModel(again.model)).toEqual(bytes);
        // What is not ours to read is read by others the same way.
        expect(onnx.ModelProto.decode(bytes).graph?.name ?? "").toBe(model.graph.name);
      }),
      { seed: 5, numRuns: campaignRuns(1000) },
    );
  });

  test("is understood by onnx-proto, field by field", async () => {
    const theirs = onnx.ModelProto.decode(await encodeModel(everything110));
    const plain = onnx.ModelProto.toObject(theirs, { longs: String, enums: Number });
    expect(digits(bare(plain))).toEqual(digits(bare(everything110)));
  });

  test("of onnx-proto is understood", async () => {
    const { INT } = onnx.AttributeProto.AttributeType;
    const theirs = onnx.ModelProto.encode({
      irVersion: 10,
      opsetImport: [{ domain: "", version: 22 }],
      graph: {
        name: "theirs",
        node: [{ opType: "Cast", input: ["x"], output: ["y"], attribute: [{ name: "to", type: INT, i: 0 }] }],
        initializer: [{ name: "w", dataType: 1, dims: [0, 3] }],
        input: [
          {
            name: "x",
            type: { tensorType: { elemType: 1, shape: { dim: [{ dimValue: 0 }, { dimParam: "n" }] } } },
          },
        ],
      },
    }).finish();
    const { model, opset, tensors } = await readOnnx(new MemorySource(theirs));
    expect(opset).toBe(22);
    expect(model.graph.node[0]).toEqual({
      opType: "Cast",
      input: ["x"],
      output: ["y"],
      attribute: [{ name: "to", type: ATTRIBUTE_TYPES.INT, i: 0 }],
    });
    expect(model.graph.input[0]?.type?.tensorType?.shape?.dim).toEqual([{ dimValue: 0 }, { dimParam: "n" }]);
    expect(tensors).toMatchObject([{ name: "w", dims: [0, 3], byteLength: 0, type: "FLOAT" }]);
  });

  test("keeps zeros that are set", async () => {
    const node = {
      opType: "A",
      input: [],
      output: [],
      attribute: [
        { name: "a", type: 2, i: 0 },
        { name: "b", type: 1, f: 0 },
      ],
    };
    const model: ModelProto = { ...smallModel(), graph: plainGraph([node]) };
    const again = await decodeModel(await encodeModel(model), "m.onnx");
    expect(again.graph.node[0]?.attribute).toEqual(node.attribute);
  });
});

/** Numbers as their digits, wherever they are. */
function digits(value: unknown): unknown {
  if (Array.isArray(value)) return value.map(digits);
  if (typeof value === "object" && value !== null) {
    return Object.fromEntries(Object.entries(value).map(([key, each]) => [key, digits(each)]));
  }
  return typeof value === "number" ? String(value) : value;
}

test("element types and kinds of attributes have the ids of onnx-proto", () => {
  const { UNDEFINED: _, ...theirs } = onnx.TensorProto.DataType;
  const ours = new Map(ELEMENT_TYPES.map(({ name, id }) => [name as string, id]));
  for (const [name, id] of Object.entries(theirs)) expect([name, ours.get(name)]).toEqual([name, id]);
  expect(ELEMENT_TYPES).toHaveLength(26);
  for (const type of ELEMENT_TYPES) {
    expect(elementTypeById(type.id)).toEqual(type);
    expect(elementType(type.name)).toEqual(type);
  }
  expect(elementTypeById(0)).toBeUndefined();
  const { UNDEFINED: __, ...kinds } = onnx.AttributeProto.AttributeType;
  expect(ATTRIBUTE_TYPES).toMatchObject(kinds);
});

function nested(depth: number): GraphProto {
  let graph = plainGraph([]);
  for (let level = 0; level < depth; level++) {
    graph = plainGraph([
      { opType: "If", input: [], output: [], attribute: [{ name: "g", type: 5, g: graph }] },
    ]);
  }
  return graph;
}

describe("what does not fit is refused", () => {
  const withGraph = (graph: object): ModelProto => ({ ...smallModel(), ...({ graph } as object) });
  const tensor = (fields: object): ModelProto =>
    withGraph({ ...plainGraph([]), initializer: [{ name: "t", dims: [], dataType: 1, ...fields }] });
  test.each<[string, ModelProto, string]>([
    [
      "a misspelt field",
      withGraph({ ...plainGraph([]), initialiser: [] }),
      '"initialiser", which GraphProto lacks',
    ],
    [
      "a field in snake case",
      tensor({ raw_data: new Uint8Array(4) }),
      'initializer[0] has the field "raw_data"',
    ],
    ["__proto__", withGraph(JSON.parse('{"__proto__":{"node":[]}}') as object), "__proto__"],
    ["a text for a number", tensor({ dataType: "1" }), 'dataType is "1", which does not fit in int32'],
    ["a number above int32", tensor({ dataType: 2 ** 31 }), "2147483648"],
    ["a dimension below 0", tensor({ dims: [-1] }), "dims[0] is -1"],
    ["a fraction", tensor({ dims: [1.5] }), "1.5"],
    ["a number above 2^53", tensor({ int64Data: [2 ** 53] }), "9007199254740992"],
    ["an int64 of 2^63", tensor({ int64Data: [2n ** 63n] }), "9223372036854775808"],
    ["a uint64 below 0", tensor({ uint64Data: [-1] }), "-1"],
    ["a float that only a double holds", tensor({ floatData: [1e39] }), "1e+39"],
    ["a text for a double", tensor({ doubleData: ["1"] }), "doubleData[0]"],
    ["a text for bytes", tensor({ rawData: "abcd" }), '"abcd"'],
    ["half a surrogate pair", tensor({ name: "\uD83D" }), "string"],
    ["a message for a list", tensor({ dims: 3 }), "expected a list"],
    ["null for a message", withGraph({ ...plainGraph([]), node: [null] }), "node[0] is null"],
    ["graphs inside each other without end", withGraph(nested(MAX_NESTING)), "nested deeper than"],
  ])("%s", async (_, model, says) => {
    await expect(encodeModel(model)).rejects.toThrow(OnnxError);
    await expect(encodeModel(model)).rejects.toThrow(says);
  });

  test("but nested graphs up to the limit are written and read", async () => {
    const model: ModelProto = { ...smallModel(), graph: nested(Math.floor((MAX_NESTING - 5) / 3)) };
    expect(bare(await decodeModel(await encodeModel(model), "m.onnx"))).toEqual(bare(model));
  });
});
