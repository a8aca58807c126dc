/**
 * The part of WebAssembly's JavaScript interface that the kernels use. Neither TypeScript's ES libraries nor the
 * types of Node 20 declare it; TypeScript's DOM library does, with all of the browser beside it.
 */
declare namespace WebAssembly {
  interface Module {
    readonly [Symbol.toStringTag]: "WebAssembly.Module";
  }

  class Instance {
    constructor(module: Module);
    readonly exports: Readonly<Record<string, unknown>>;
  }

  interface Memory {
    readonly buffer: ArrayBuffer;
    grow(pages: number): number;
  }

  interface Global {
    readonly value: number;
  }

  function compile(bytes: Uint8Array<ArrayBuffer>): Promise<Module>;
}
