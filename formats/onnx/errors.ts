import { FormatError } from "../errors.js";

/** An ONNX model that is damaged or beyond what is supported, or values that the format cannot hold. */
export class OnnxError extends FormatError {}

/** What to do about most damage. */
export const COPY_AGAIN = "The file is cut off or damaged; copy or download it again.";
