/*
 * The engine's process: loads llama.cpp and answers its parent, one request after another. A crash in
 * there ends this process and not the command. Started by engine.ts only.
 */
import { writeSync } from "node:fs";
import { EngineError } from "../errors.js";
import type { EngineInfo } from "../types.js";
import { bench } from "./bench.js";
import { openLlama, type Llama } from "./library.js";
import { peakMemory } from "../memory.js";
import { LoggedError, Model } from "./model.js";
import type { Installation } from "./platform.js";
import { markerLine, type Calls, type CallName, type Failure, type Reply, type Request } from "./protocol.js";
import { score } from "./score.js";

const models = new Map<number, Model>();
let nextHandle = 1;
let loaded: Llama | undefined;

function send(reply: Reply): void {
  process.send?.(reply);
}

function open(installation: Installation): EngineInfo {
  loaded = openLlama(installation);
  return {
    name: `llama.cpp v${installation.release} (${installation.package})`,
    version: loaded.version,
    system: loaded.systemInfo().trim(),
  };
}

function llama(): Llama {
  if (loaded === undefined) throw new EngineError("engine-closed", "llama.cpp is not loaded yet.");
  return loaded;
}

function modelOf(handle: number): Model {
  const model = models.get(handle);
  if (model === undefined)
    throw new EngineError("engine-handle", `No model is loaded under handle ${handle}.`);
  return model;
}

const handlers: {
  readonly [N in CallName]: (
    request: Calls[N]["request"],
    id: number,
  ) => Calls[N]["result"] | Promise<Calls[N]["result"]>;
} = {
  open: ({ installation }) => open(installation),

  async load({ path, options }) {
    const model = await Model.load(llama(), path, options);
    const handle = nextHandle++;
    models.set(handle, model);
    return { handle, model: model.info };
  },

  tokenize: ({ handle, text, special, bos }) => modelOf(handle).tokenize(text, { special, bos }),

  async score({ handles, windows, visitor }, id) {
    if (new Set(handles).size !== handles.length) {
      throw new EngineError("engine-handle", "A model cannot run side by side with itself: load it twice.");
    }
    await score(llama(), handles.map(modelOf), windows, visitor, (scores) =>
      send({ id, kind: "window", scores }),
    );
    return null;
  },

  bench: ({ handle, options }) => bench(llama(), modelOf(handle), options),

  peakMemory: () => peakMemory(),

  unload({ handle }) {
    modelOf(handle).free();
    models.delete(handle);
    return null;
  },
};

/** One request to its handler; which belongs to which, the type of `handlers` has seen to. */
async function answer(request: Request): Promise<Calls[CallName]["result"]> {
  const handler = handlers[request.call] as (request: Request, id: number) => Calls[CallName]["result"];
  return handler(request, request.id);
}

function failureOf(id: number, error: unknown): Failure {
  if (error instanceof EngineError) {
    const { code, message, advice, exitCode } = error;
    return { id, kind: "failure", code, message, advice, exitCode, logged: error instanceof LoggedError };
  }
  const message = error instanceof Error ? (error.stack ?? error.message) : String(error);
  return {
    id,
    kind: "failure",
    code: "engine-failure",
    message,
    advice: undefined,
    exitCode: 1,
    logged: false,
  };
}

/** Not through process.stderr, which would make the pipe non-blocking and let llama.cpp's own lines be lost. */
function mark(id: number): void {
  try {
    writeSync(2, `\n${markerLine(id)}\n`);
  } catch {
    // The parent only loses the quotation of the log.
  }
}

async function handle(request: Request): Promise<void> {
  try {
    const result = await answer(request);
    send({ id: request.id, kind: "success", result });
  } catch (error) {
    mark(request.id);
    send(failureOf(request.id, error));
  }
}

let queue: Promise<void> = Promise.resolve();
process.on("message", (request: Request) => {
  queue = queue.then(() => handle(request));
});
// Without a parent there is nothing to do, not even the rest of a call that runs in another thread.
process.on("disconnect", () => process.kill(process.pid, "SIGKILL"));
// Ctrl-C reaches the whole group; the parent decides what becomes of this process.
process.on("SIGINT", () => {});
