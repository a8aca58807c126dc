/** What a field holds: a scalar, or a message by its name. `size` is an int64 from 0 to 2^53 − 1. */
export type Kind =
  | "string"
  | "bytes"
  | "int32"
  | "int64"
  | "uint64"
  | "size"
  | "float"
  | "double"
  | MessageName;

type MessageName = Capitalize<string>;

export interface Field {
  readonly name: string;
  readonly id: number;
  readonly kind: Kind;
  readonly repeated: boolean;
  /** Whether lists are written packed; both forms are read. */
  readonly packed: boolean;
  /** Whether it is there after reading where the file does not have it: as an empty list, an empty text or 0. */
  readonly always: boolean;
}

type Spec = Omit<Field, "name">;

const optional = (id: number, kind: Kind): Spec => ({
  id,
  kind,
  repeated: false,
  packed: false,
  always: false,
});
const always = (id: number, kind: Kind): Spec => ({ ...optional(id, kind), always: true });
const many = (id: number, kind: Kind): Spec => ({ ...optional(id, kind), repeated: true });
const packed = (id: number, kind: Kind): Spec => ({ ...many(id, kind), packed: true });
const list = (id: number, kind: Kind): Spec => ({ ...many(id, kind), always: true });

const text = (id: number): Spec => optional(id, "string");
const entries = (id: number): Spec => many(id, "StringStringEntryProto");

/**
 * Every message with its fields, by the numbers of onnx.proto; what it has beyond is ignored when read. The
 * device configurations stay encoded: nothing here looks into them.
 */
const MESSAGES: Readonly<Record<MessageName, Readonly<Record<string, Spec>>>> = {
  ModelProto: {
    irVersion: always(1, "size"),
    producerName: text(2),
    producerVersion: text(3),
    domain: text(4),
    modelVersion: optional(5, "int64"),
    docString: text(6),
    graph: optional(7, "GraphProto"),
    opsetImport: list(8, "OperatorSetIdProto"),
    metadataProps: entries(14),
    trainingInfo: many(20, "TrainingInfoProto"),
    functions: many(25, "FunctionProto"),
    configuration: many(26, "bytes"),
  },
  OperatorSetIdProto: { domain: always(1, "string"), version: always(2, "size") },
  StringStringEntryProto: { key: always(1, "string"), value: always(2, "string") },
  GraphProto: {
    node: list(1, "NodeProto"),
    name: text(2),
    initializer: list(5, "TensorProto"),
    docString: text(10),
    input: list(11, "ValueInfoProto"),
    output: list(12, "ValueInfoProto"),
    valueInfo: list(13, "ValueInfoProto"),
    quantizationAnnotation: many(14, "TensorAnnotation"),
    sparseInitializer: many(15, "SparseTensorProto"),
    metadataProps: entries(16),
  },
  NodeProto: {
    input: list(1, "string"),
    output: list(2, "string"),
    name: text(3),
    opType: always(4, "string"),
    attribute: list(5, "AttributeProto"),
    docString: text(6),
    domain: text(7),
    overload: text(8),
    metadataProps: entries(9),
    deviceConfigurations: many(10, "bytes"),
  },
  AttributeProto: {
    name: always(1, "string"),
    f: optional(2, "float"),
    i: optional(3, "int64"),
    s: optional(4, "bytes"),
    t: optional(5, "TensorProto"),
    g: optional(6, "GraphProto"),
    floats: many(7, "float"),
    ints: many(8, "int64"),
    strings: many(9, "bytes"),
    tensors: many(10, "TensorProto"),
    graphs: many(11, "GraphProto"),
    docString: text(13),
    tp: optional(14, "TypeProto"),
    typeProtos: many(15, "TypeProto"),
    type: always(20, "int32"),
    refAttrName: text(21),
    sparseTensor: optional(22, "SparseTensorProto"),
    sparseTensors: many(23, "SparseTensorProto"),
  },
  TensorProto: {
    dims: list(1, "size"),
    dataType: always(2, "int32"),
    segment: optional(3, "TensorSegment"),
    floatData: packed(4, "float"),
    int32Data: packed(5, "int32"),
    stringData: many(6, "bytes"),
    int64Data: packed(7, "int64"),
    name: text(8),
    rawData: optional(9, "bytes"),
    doubleData: packed(10, "double"),
    uint64Data: packed(11, "uint64"),
    docString: text(12),
    externalData: entries(13),
    dataLocation: optional(14, "int32"),
    metadataProps: entries(16),
  },
  TensorSegment: { begin: optional(1, "int64"), end: optional(2, "int64") },
  SparseTensorProto: {
    values: optional(1, "TensorProto"),
    indices: optional(2, "TensorProto"),
    dims: list(3, "size"),
  },
  ValueInfoProto: {
    name: always(1, "string"),
    type: optional(2, "TypeProto"),
    docString: text(3),
    metadataProps: entries(4),
  },
  TypeProto: {
    tensorType: optional(1, "TensorTypeProto"),
    sequenceType: optional(4, "ElementOf"),
    mapType: optional(5, "MapTypeProto"),
    denotation: text(6),
    sparseTensorType: optional(8, "TensorTypeProto"),
    optionalType: optional(9, "ElementOf"),
  },
  TensorTypeProto: { elemType: always(1, "int32"), shape: optional(2, "TensorShapeProto") },
  ElementOf: { elemType: optional(1, "TypeProto") },
  MapTypeProto: { keyType: optional(1, "int32"), valueType: optional(2, "TypeProto") },
  TensorShapeProto: { dim: list(1, "Dimension") },
  Dimension: { dimValue: optional(1, "size"), dimParam: text(2), denotation: text(3) },
  TensorAnnotation: { tensorName: text(1), quantParameterTensorNames: entries(2) },
  TrainingInfoProto: {
    initialization: optional(1, "GraphProto"),
    algorithm: optional(2, "GraphProto"),
    initializationBinding: entries(3),
    updateBinding: entries(4),
  },
  FunctionProto: {
    name: always(1, "string"),
    input: list(4, "string"),
    output: list(5, "string"),
    attribute: many(6, "string"),
    node: list(7, "NodeProto"),
    docString: text(8),
    opsetImport: list(9, "OperatorSetIdProto"),
    domain: text(10),
    attributeProto: many(11, "AttributeProto"),
    valueInfo: many(12, "ValueInfoProto"),
    overload: text(13),
    metadataProps: entries(14),
  },
};

/** A message of the schema. */
export class Message {
  readonly name: string;
  readonly fields: readonly Field[];
  readonly #byId: ReadonlyMap<number, Field>;
  readonly #byName: ReadonlyMap<string, Field>;

  constructor(name: string, fields: readonly Field[]) {
    this.name = name;
    this.fields = fields;
    this.#byId = new Map(fields.map((field) => [field.id, field]));
    this.#byName = new Map(fields.map((field) => [field.name, field]));
  }

  byId(id: number): Field | undefined {
    return this.#byId.get(id);
  }

  byName(name: string): Field | undefined {
    return this.#byName.get(name);
  }
}

/** All messages by name. */
export const SCHEMA: ReadonlyMap<string, Message> = new Map(
  Object.entries(MESSAGES).map(([name, fields]) => [
    name,
    new Message(
      name,
      Object.entries(fields).map(([field, spec]) => Object.assign({ name: field }, spec)),
    ),
  ]),
);

/** The message that a field holds; undefined for a scalar. */
export function messageOf({ kind }: Field): Message | undefined {
  return SCHEMA.get(kind);
}

/** Where every file starts. */
export const ROOT: Message = SCHEMA.get("ModelProto")!;

/** The schema as protobufjs takes it. `proto2` makes it write a 0 that is set, and lists unpacked unless they say otherwise. */
export function schemaDescriptor(): { nested: Record<string, object> } {
  const nested: Record<string, object> = {};
  for (const { name, fields } of SCHEMA.values()) {
    const described = fields.map((field) => [
      field.name,
      {
        id: field.id,
        type: field.kind === "size" ? "int64" : field.kind,
        ...(field.repeated ? { rule: "repeated" } : {}),
        ...(field.packed ? { options: { packed: true } } : {}),
      },
    ]);
    nested[name] = { edition: "proto2", fields: Object.fromEntries(described) as object };
  }
  return { nested };
}
