/**
 * The messages of an ONNX model, named as in onnx.proto but in camel case. What is optional is left out where
 * the file does not have it.
 */

/** A signed 64-bit integer; read as a number up to 2^53 and as a bigint beyond. */
export type Int64 = number | bigint;

export interface ModelProto {
  readonly irVersion: number;
  readonly producerName?: string;
  readonly producerVersion?: string;
  readonly domain?: string;
  readonly modelVersion?: Int64;
  readonly docString?: string;
  readonly graph: GraphProto;
  readonly opsetImport: readonly OperatorSetIdProto[];
  readonly metadataProps?: readonly StringStringEntryProto[];
  readonly trainingInfo?: readonly TrainingInfoProto[];
  readonly functions?: readonly FunctionProto[];
  /** Encoded DeviceConfigurationProto, kept as they are. */
  readonly configuration?: readonly Uint8Array[];
}

export interface OperatorSetIdProto {
  /** Empty for the operators of ONNX itself. */
  readonly domain: string;
  readonly version: number;
}

export interface StringStringEntryProto {
  readonly key: string;
  readonly value: string;
}

export interface GraphProto {
  readonly name?: string;
  readonly docString?: string;
  readonly node: readonly NodeProto[];
  readonly initializer: readonly TensorProto[];
  readonly sparseInitializer?: readonly SparseTensorProto[];
  readonly input: readonly ValueInfoProto[];
  readonly output: readonly ValueInfoProto[];
  readonly valueInfo: readonly ValueInfoProto[];
  readonly quantizationAnnotation?: readonly TensorAnnotation[];
  readonly metadataProps?: readonly StringStringEntryProto[];
}

export interface NodeProto {
  /** Names of values; an empty one stands for an optional input that is not given. */
  readonly input: readonly string[];
  readonly output: readonly string[];
  readonly name?: string;
  readonly opType: string;
  readonly attribute: readonly AttributeProto[];
  readonly docString?: string;
  readonly domain?: string;
  readonly overload?: string;
  readonly metadataProps?: readonly StringStringEntryProto[];
  /** Encoded NodeDeviceConfigurationProto, kept as they are. */
  readonly deviceConfigurations?: readonly Uint8Array[];
}

export interface AttributeProto {
  readonly name: string;
  /** Which of the fields holds the value; see `ATTRIBUTE_TYPES`. */
  readonly type: number;
  /** In a function: the attribute of the calling node that gives the value. */
  readonly refAttrName?: string;
  readonly docString?: string;
  readonly f?: number;
  readonly i?: Int64;
  /** UTF-8. */
  readonly s?: Uint8Array;
  readonly t?: TensorProto;
  readonly g?: GraphProto;
  readonly tp?: TypeProto;
  readonly sparseTensor?: SparseTensorProto;
  readonly floats?: readonly number[];
  readonly ints?: readonly Int64[];
  readonly strings?: readonly Uint8Array[];
  readonly tensors?: readonly TensorProto[];
  readonly graphs?: readonly GraphProto[];
  readonly typeProtos?: readonly TypeProto[];
  readonly sparseTensors?: readonly SparseTensorProto[];
}

/** Values of `AttributeProto.type`. */
export const ATTRIBUTE_TYPES = {
  FLOAT: 1,
  INT: 2,
  STRING: 3,
  TENSOR: 4,
  GRAPH: 5,
  FLOATS: 6,
  INTS: 7,
  STRINGS: 8,
  TENSORS: 9,
  GRAPHS: 10,
  SPARSE_TENSOR: 11,
  SPARSE_TENSORS: 12,
  TYPE_PROTO: 13,
  TYPE_PROTOS: 14,
} as const;

export interface TensorProto {
  /** Outermost dimension first; empty for a scalar. */
  readonly dims: readonly number[];
  /** Id of the element type; see `elementTypeById`. */
  readonly dataType: number;
  readonly name?: string;
  readonly docString?: string;
  /** Little-endian; values narrower than a byte are packed, lowest bits first. */
  readonly rawData?: Uint8Array;
  readonly segment?: TensorSegment;
  readonly floatData?: readonly number[];
  readonly int32Data?: readonly number[];
  readonly stringData?: readonly Uint8Array[];
  readonly int64Data?: readonly Int64[];
  readonly doubleData?: readonly number[];
  readonly uint64Data?: readonly Int64[];
  /** `location`, and where needed `offset`, `length` and `checksum`. */
  readonly externalData?: readonly StringStringEntryProto[];
  /** 1 for data in another file. */
  readonly dataLocation?: number;
  readonly metadataProps?: readonly StringStringEntryProto[];
}

/** Value of `TensorProto.dataLocation` for data in another file. */
export const DATA_EXTERNAL = 1;

export interface TensorSegment {
  readonly begin?: Int64;
  readonly end?: Int64;
}

export interface SparseTensorProto {
  readonly values?: TensorProto;
  readonly indices?: TensorProto;
  readonly dims: readonly number[];
}

export interface ValueInfoProto {
  readonly name: string;
  readonly type?: TypeProto;
  readonly docString?: string;
  readonly metadataProps?: readonly StringStringEntryProto[];
}

/** One of the five kinds of types. */
export interface TypeProto {
  readonly tensorType?: TensorTypeProto;
  readonly sequenceType?: ElementOf;
  readonly mapType?: MapTypeProto;
  readonly sparseTensorType?: TensorTypeProto;
  readonly optionalType?: ElementOf;
  readonly denotation?: string;
}

export interface TensorTypeProto {
  readonly elemType: number;
  /** Left out where not even the number of dimensions is known. */
  readonly shape?: TensorShapeProto;
}

export interface ElementOf {
  readonly elemType?: TypeProto;
}

export interface MapTypeProto {
  readonly keyType?: number;
  readonly valueType?: TypeProto;
}

export interface TensorShapeProto {
  readonly dim: readonly Dimension[];
}

/** A number, a symbol, or neither for a dimension of which nothing is known. */
export interface Dimension {
  readonly dimValue?: number;
  readonly dimParam?: string;
  readonly denotation?: string;
}

export interface TensorAnnotation {
  readonly tensorName?: string;
  readonly quantParameterTensorNames?: readonly StringStringEntryProto[];
}

export interface TrainingInfoProto {
  readonly initialization?: GraphProto;
  readonly algorithm?: GraphProto;
  readonly initializationBinding?: readonly StringStringEntryProto[];
  readonly updateBinding?: readonly StringStringEntryProto[];
}

export interface FunctionProto {
  readonly name: string;
  readonly domain?: string;
  readonly overload?: string;
  readonly docString?: string;
  readonly input: readonly string[];
  readonly output: readonly string[];
  /** Names of attributes without a default value. */
  readonly attribute?: readonly string[];
  readonly attributeProto?: readonly AttributeProto[];
  readonly node: readonly NodeProto[];
  readonly opsetImport: readonly OperatorSetIdProto[];
  readonly valueInfo?: readonly ValueInfoProto[];
  readonly metadataProps?: readonly StringStringEntryProto[];
}
