import { expect } from "vitest";
import { EngineError } from "../../../../src/engines/errors.js";

/** The error a promise is rejected with. */
export async function rejection(promise: Promise<unknown>): Promise<EngineError> {
  const error: unknown = await promise.then(
    () => undefined,
    (reason: unknown) => reason,
  );
  expect(error).toBeInstanceOf(EngineError);
  return error as EngineError;
}

/** The error a function throws. */
export function thrown(call: () => unknown): EngineError {
  let error: unknown;
  try {
    call();
  } catch (caught) {
    error = caught;
  }
  expect(error).toBeInstanceOf(EngineError);
  return error as EngineError;
}
