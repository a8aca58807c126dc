/*
 * The engine's thread: loads ONNX Runtime and answers the main thread, one request after another. The binding
 * blocks its thread in spite of its promises, so that nothing else can live here. Started by engine.ts only.
 */
import { parentPort, workerData } from "node:worker_threads";
import { EngineError } from "../errors.js";
import { peakMemory } from "../memory.js";
import { Gate } from "./gate.js";
import { generate } from "./generate.js";
import type { Calls, CallName, Failure, Reply, Request, WorkerSetup } from "./protocol.js";
import { loadRuntime, type Runtime, type RuntimeTensor } from "./runtime.js";
import { Session } from "./session.js";
import { fromRuntime, isTensorType, toRuntime, unfetchable } from "./tensors.js";
import type { Feed, Generation, TensorValue } from "./types.js";

const gate = new Gate((workerData as WorkerSetup).gate);
const sessions = new Map<number, Session>();
const kept = new Map<string, RuntimeTensor>();
let nextSession = 1;
let loaded: Runtime | undefined;

function runtime(): Runtime {
  if (loaded === undefined) throw new EngineError("engine-closed", "ONNX Runtime is not loaded yet.");
  return loaded;
}

function sessionOf(handle: number): Session {
  const session = sessions.get(handle);
  if (session === undefined) {
    throw new EngineError("engine-handle", `No model is open under handle ${handle}.`);
  }
  return session;
}

function feedOf(feed: Feed, what: string): RuntimeTensor {
  if (!("kept" in feed)) return toRuntime(runtime(), feed, what);
  const tensor = kept.get(feed.kept);
  if (tensor === undefined) {
    throw new EngineError(
      "engine-kept",
      `${what} is to be fed with ${feed.kept}, but no such value is kept.`,
    );
  }
  return tensor;
}

async function run({ session: handle, options }: Calls["run"]["request"]): Promise<Calls["run"]["result"]> {
  const session = sessionOf(handle);
  const { fetch, keep = {} } = options;
  // Before the run, which may take long.
  for (const name of fetch) {
    const type = session.output(name)?.type;
    if (type !== undefined && !isTensorType(type)) {
      throw unfetchable(`${session.file}: the output ${name}`, type);
    }
  }
  const feeds: Record<string, RuntimeTensor> = {};
  for (const [name, feed] of Object.entries(options.feeds)) {
    feeds[name] = feedOf(feed, `${session.file}: the input ${name}`);
  }
  const results = await session.run(feeds, [...new Set([...fetch, ...Object.keys(keep)])]);
  for (const [output, name] of Object.entries(keep)) kept.set(name, results[output]!);
  const fetched: Record<string, TensorValue> = {};
  for (const name of fetch) {
    fetched[name] = fromRuntime(
      results[name]!,
      `${session.file}: the output ${name}`,
      Object.hasOwn(keep, name),
    );
  }
  return fetched;
}

const handlers: {
  readonly [N in CallName]: (
    request: Calls[N]["request"],
  ) => Calls[N]["result"] | Promise<Calls[N]["result"]>;
} = {
  async load({ module }) {
    loaded = await gate.pass(() => loadRuntime(module));
    const version = loaded.env.versions.node ?? "of unknown version";
    return { name: `ONNX Runtime ${version} (onnxruntime-node)`, version };
  },

  async open({ options }) {
    const session = await Session.open(runtime(), gate, options);
    const handle = nextSession++;
    sessions.set(handle, session);
    return { session: handle, inputs: session.inputs, outputs: session.outputs };
  },

  run,

  drop({ names }) {
    for (const name of names) kept.delete(name);
    return null;
  },

  generate({ options }) {
    const embed = options.embed === undefined ? undefined : sessionOf(options.embed);
    return generate(runtime(), embed, sessionOf(options.decoder), options);
  },

  peakMemory: () => peakMemory(),

  async closeSession({ session }) {
    const open = sessionOf(session);
    sessions.delete(session);
    await open.release();
    return null;
  },

  end: () => process.exit(0),
};

/** One request to its handler; which belongs to which, the type of `handlers` has seen to. */
async function answer(request: Request): Promise<Calls[CallName]["result"]> {
  const handler = handlers[request.call] as (request: Request) => Calls[CallName]["result"];
  return handler(request);
}

function failureOf(id: number, error: unknown): Failure {
  if (error instanceof EngineError) {
    const { code, message, advice, exitCode } = error;
    return { id, kind: "failure", code, message, advice, exitCode };
  }
  const message = error instanceof Error ? (error.stack ?? error.message) : String(error);
  return { id, kind: "failure", code: "engine-failure", message, advice: undefined, exitCode: 1 };
}

/** Buffers that go to the main thread without being copied. */
function buffersOf(call: CallName, result: Calls[CallName]["result"]): ArrayBuffer[] {
  const arrays =
    call === "run"
      ? Object.values(result as Record<string, TensorValue>).map(({ data }) => data)
      : call === "generate"
        ? [(result as Generation).lastLogits, (result as Generation).promptLogits]
        : [];
  const buffers = arrays.flatMap((array) => (array === undefined ? [] : [array.buffer as ArrayBuffer]));
  return [...new Set(buffers)];
}

function send(reply: Reply, buffers: readonly ArrayBuffer[] = []): void {
  parentPort?.postMessage(reply, buffers);
}

async function handle(request: Request): Promise<void> {
  try {
    const result = await answer(request);
    send({ id: request.id, kind: "success", result }, buffersOf(request.call, result));
  } catch (error) {
    send(failureOf(request.id, error));
  }
}

let queue: Promise<void> = Promise.resolve();
parentPort?.on("message", (request: Request) => {
  queue = queue.then(() => handle(request));
});
