import { EngineError } from "../errors.js";
import type { Gate } from "./gate.js";
import type { Runtime, RuntimeSession, RuntimeTensor, RuntimeValueMetadata } from "./runtime.js";
import { checkFeed } from "./tensors.js";
import type { OpenOptions, ValueDescription } from "./types.js";

/** More are no use on any machine that is sold; each is a thread of the system. */
const MAX_THREADS = 512;

/** Only what ends the process is worth a line on standard error; all else comes as an exception. */
const FATAL = 4;

/** The runtime's message without what is the same in all of them. */
function reasonOf(error: unknown): string {
  const text = error instanceof Error ? error.message : String(error);
  return text.replaceAll(/\s*\n\s*/g, " ").replace(/\.?\s*$/, "");
}

function describe(metadata: readonly RuntimeValueMetadata[], file: string): ValueDescription[] {
  return metadata.map(({ name, isTensor, type, shape }) => {
    if (!isTensor || type === undefined || shape === undefined) {
      throw new EngineError(
        "engine-load",
        `${file}: the value ${name} is not a tensor, which is not handled.`,
      );
    }
    return { name, type, shape };
  });
}

/** A graph that is open in the runtime. */
export class Session {
  /** Path of the graph, or what stands for it in messages. */
  readonly file: string;
  readonly inputs: readonly ValueDescription[];
  readonly outputs: readonly ValueDescription[];
  readonly #gate: Gate;
  readonly #session: RuntimeSession;

  private constructor(file: string, session: RuntimeSession, gate: Gate) {
    this.file = file;
    this.#session = session;
    this.#gate = gate;
    this.inputs = describe(session.inputMetadata, file);
    this.outputs = describe(session.outputMetadata, file);
  }

  /** @throws EngineError for options that make no sense, and when the runtime does not take the model */
  static async open(runtime: Runtime, gate: Gate, options: OpenOptions): Promise<Session> {
    const { model, threads, optimization = "all", prepack = true, optimizedModelPath, settings } = options;
    if (!Number.isSafeInteger(threads) || threads < 1 || threads > MAX_THREADS) {
      throw new EngineError(
        "engine-threads",
        `${threads} threads are asked for, expected 1 to ${MAX_THREADS}.`,
        { exitCode: 2 },
      );
    }
    const folder = "folder" in options ? options.folder : undefined;
    const file = typeof model === "string" ? model : ("name" in options && options.name) || "the model";
    const session = await gate.pass(async () => {
      try {
        return await runtime.InferenceSession.create(model, {
          executionProviders: ["cpu"],
          executionMode: "sequential",
          intraOpNumThreads: threads,
          interOpNumThreads: 1,
          graphOptimizationLevel: optimization === "all" ? "all" : "disabled",
          logSeverityLevel: FATAL,
          ...(optimizedModelPath === undefined ? {} : { optimizedModelFilePath: optimizedModelPath }),
          extra: {
            ...settings,
            ...(prepack ? {} : { "session.disable_prepacking": "1" }),
            ...(folder === undefined
              ? {}
              : { "session.model_external_initializers_file_folder_path": folder }),
          },
        });
      } catch (cause) {
        throw new EngineError(
          "engine-load",
          `${file}: ONNX Runtime does not load the model: ${reasonOf(cause)}.`,
          { cause },
        );
      }
    });
    try {
      return new Session(file, session, gate);
    } catch (error) {
      await gate.pass(() => session.release());
      throw error;
    }
  }

  /** The input with this name, or undefined when the graph declares none. */
  input(name: string): ValueDescription | undefined {
    return this.inputs.find((input) => input.name === name);
  }

  output(name: string): ValueDescription | undefined {
    return this.outputs.find((output) => output.name === name);
  }

  /**
   * Runs the graph once.
   *
   * @param fetch names of outputs, at least one
   * @throws EngineError that names the input or output which is missing, unknown or does not fit
   */
  async run(
    feeds: Readonly<Record<string, RuntimeTensor>>,
    fetch: readonly string[],
  ): Promise<Record<string, RuntimeTensor>> {
    for (const input of this.inputs) {
      const feed = Object.hasOwn(feeds, input.name) ? feeds[input.name] : undefined;
      if (feed === undefined) {
        throw new EngineError("engine-feed", `${this.file}: the input ${input.name} is not fed.`);
      }
      checkFeed(input, feed, `${this.file}: the input ${input.name}`);
    }
    // The runtime would ignore it.
    const stranger = Object.keys(feeds).find((name) => this.input(name) === undefined);
    if (stranger !== undefined) {
      const names = this.inputs.map(({ name }) => name).join(", ");
      throw new EngineError("engine-feed", `${this.file} has no input ${stranger}, its inputs are ${names}.`);
    }
    const absent = fetch.find((name) => this.output(name) === undefined);
    if (absent !== undefined) {
      const names = this.outputs.map(({ name }) => name).join(", ");
      throw new EngineError(
        "engine-fetch",
        `${this.file} has no output ${absent}, its outputs are ${names}.`,
      );
    }
    if (fetch.length === 0) throw new EngineError("engine-fetch", `${this.file}: no output is asked for.`);
    return this.#gate.pass(async () => {
      try {
        return await this.#session.run(feeds, fetch, { logSeverityLevel: FATAL });
      } catch (cause) {
        throw new EngineError(
          "engine-run",
          `${this.file}: ONNX Runtime does not run the model: ${reasonOf(cause)}.`,
          { cause },
        );
      }
    });
  }

  async release(): Promise<void> {
    await this.#gate.pass(() => this.#session.release());
  }
}
