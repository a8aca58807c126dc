/**
 * The plain scale of a block, as ONNX Runtime's own quantizer chooses it: the extreme value on the lowest code, or
 * with zero points the range of the values and 0 over all codes. Sums and quotients are float32.
 */
import { inverseOf, levelOf, storedScale } from "../search/scale.js";
import { extremeOf } from "../encode/symmetric.js";
import { type Fit, middleOf, type NBitsType, topOf } from "./types.js";

const { fround, max, min } = Math;

/** The scale and zero point of the method `nearest`; the scale ends at 65504. */
export function nearestFit(type: NBitsType, values: Float32Array): Fit {
  if (!type.zeroPoints) {
    const zero = middleOf(type);
    return { scale: storedScale(fround(extremeOf(values) / -zero)), zero };
  }
  const top = topOf(type);
  const low = min(0, ...values);
  const high = max(0, ...values);
  const scale = storedScale(fround(fround(high - low) / top));
  return { scale, zero: levelOf(fround(-low) * inverseOf(scale), { lowest: 0, highest: top }) };
}
