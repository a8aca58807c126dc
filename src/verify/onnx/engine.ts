import { mkdtemp, open, rm, truncate, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { builtUrl } from "../../base/paths.js";
import type { Feed, OnnxEngine, OpenedModel, TensorValue } from "../../engines/onnx/types.js";
import type {
  BenchOptions,
  BenchResult,
  Engine,
  EngineInfo,
  LoadOptions,
  ModelInfo,
  ScoreOptions,
  Window,
  WindowScores,
} from "../../engines/types.js";
import { GRAPH_OPSET } from "../../gemma4/graph/graphs.js";
import { commonFolder, encodeGraph, movedLocation, type TextGraphs } from "../../gemma4/graph/files.js";
import {
  head,
  type HeadPart,
  relocated,
  type Side,
  splitDecoder,
  verificationHead,
  withAccuracyLevel,
} from "../../gemma4/graph/verification.js";
import { VerifyError } from "../errors.js";
import { column, pairColumns, singleColumns } from "../visitor.js";
import { emptyCache, floats, int64 } from "./values.js";

/** Values of a tensor of logits at most: 61 rows of 262,144. */
const CHUNK_VALUES = 2 ** 24;

/** Several sessions and another runtime take turns: threads that spin while they wait would take the others' cores. */
const QUIET = { "session.intra_op.allow_spinning": "0" } as const;

/** A model in ONNX Runtime, under a name that takes the place of a path. */
export interface OnnxVerified {
  readonly name: string;
  readonly graphs: TextGraphs;
  /** GGUF file with the model's vocabulary, with or without tensors: llama.cpp cuts the text into tokens. */
  readonly vocabulary: string;
  /** What the activations of MatMulNBits are computed in: 0 for single precision, 4 for 8 bits; as the file has it when left out. */
  readonly accuracyLevel?: number | undefined;
  readonly parameters: number;
  readonly bytes: number;
  readonly description: string;
}

interface OpenOnnx {
  readonly kind: "onnx";
  readonly vocabulary: number;
  readonly tokenizer: number;
  readonly embed: OpenedModel;
  readonly backbone: OpenedModel;
  readonly hidden: string;
  readonly part: HeadPart;
  readonly opset: number;
}

type Loaded = OpenOnnx | { readonly kind: "llama"; readonly handle: number; readonly vocabulary: number };

export interface VerificationEngineOptions {
  readonly llama: Engine;
  readonly onnx: OnnxEngine;
  readonly threads: number;
  /** Models in ONNX Runtime; every other path that is loaded is a GGUF file. */
  readonly models: readonly OnnxVerified[];
}

/**
 * One engine over two runtimes: GGUF files run in llama.cpp, graphs in ONNX Runtime, and all see the same tokens. What is
 * compared are whole rows of logits, in ONNX Runtime; those of llama.cpp come there through a file, a window at a
 * time. The columns are those of `../visitor.ts`, whatever visitor is asked for.
 */
export class VerificationEngine implements Engine {
  readonly #options: VerificationEngineOptions;
  readonly #loaded = new Map<number, Loaded>();
  readonly #root: string;
  #next = 0;
  #scratch: string | undefined;
  #heads = new Map<string, OpenedModel>();

  constructor(options: VerificationEngineOptions) {
    this.#options = options;
    this.#root = commonFolder(options.models.map(({ graphs }) => join(graphs.folder, "_")));
  }

  async info(): Promise<EngineInfo> {
    const { name, version } = await this.#options.onnx.info();
    const llama = await this.#options.llama.info();
    return { name, version, system: llama.system };
  }

  async load(path: string, options: LoadOptions): Promise<{ handle: number; model: ModelInfo }> {
    const { llama, models } = this.#options;
    const own = models.find(({ name }) => name === path);
    if (own === undefined) {
      const { handle, model } = await llama.load(path, options);
      return { handle: this.#keep({ kind: "llama", handle, vocabulary: model.vocabulary }), model };
    }
    const words = await llama.load(own.vocabulary, { ...options, vocabularyOnly: true });
    const opened = await this.#open(own, words);
    const { parameters, bytes, description } = own;
    return {
      handle: this.#keep(opened),
      model: { ...words.model, path, parameters, bytes, description },
    };
  }

  #keep(model: Loaded): number {
    this.#next++;
    this.#loaded.set(this.#next, model);
    return this.#next;
  }

  async #open(
    { name, graphs, accuracyLevel }: OnnxVerified,
    words: { readonly handle: number; readonly model: ModelInfo },
  ): Promise<OpenOnnx> {
    const { onnx, threads } = this.#options;
    const move = movedLocation(graphs.folder, this.#root);
    const embedding = relocated(graphs.embed, move);
    const levelled =
      accuracyLevel === undefined ? graphs.decoder : withAccuracyLevel(graphs.decoder, accuracyLevel);
    const { backbone, backboneOutput, head, opset } = splitDecoder(relocated(levelled, move), name);
    const common = { folder: this.#root, threads, name, settings: QUIET };
    return {
      kind: "onnx",
      vocabulary: words.model.vocabulary,
      tokenizer: words.handle,
      embed: await onnx.open({ ...common, model: await encodeGraph(embedding) }),
      backbone: await onnx.open({ ...common, model: await encodeGraph(backbone) }),
      hidden: backboneOutput,
      part: head,
      opset,
    };
  }

  #get(handle: number): Loaded {
    const model = this.#loaded.get(handle);
    if (model === undefined) throw new RangeError(`there is no model ${handle}`);
    return model;
  }

  tokenize(handle: number, text: string, options: { special: boolean; bos: boolean }): Promise<Int32Array> {
    const model = this.#get(handle);
    return this.#options.llama.tokenize(
      model.kind === "llama" ? model.handle : model.tokenizer,
      text,
      options,
    );
  }

  async score(
    handles: readonly number[],
    windows: readonly Window[],
    { signal, onWindow }: ScoreOptions,
  ): Promise<WindowScores[]> {
    const models = handles.map((handle) => this.#get(handle));
    const scores: WindowScores[] = [];
    for (const [index, window] of windows.entries()) {
      signal?.throwIfAborted();
      scores.push(await this.#scoreWindow(models, window, signal));
      onWindow?.(index + 1);
    }
    return scores;
  }

  async #scoreWindow(
    models: readonly Loaded[],
    window: Window,
    signal: AbortSignal | undefined,
  ): Promise<WindowScores> {
    const rows = window.tokens.length - 1 - window.first;
    const sides: Rows[] = [];
    try {
      for (const [index, model] of models.entries()) {
        sides.push(
          model.kind === "onnx"
            ? await this.#hidden(model, window)
            : await this.#logits(model.handle, window, index, signal),
        );
      }
      return await this.#compare(models, sides, window.tokens.subarray(window.first + 1), rows);
    } finally {
      for (const side of sides) await side.close();
    }
  }

  /** Last hidden states of the scored tokens. */
  async #hidden({ embed, backbone, hidden }: OpenOnnx, { tokens, first }: Window): Promise<Rows> {
    const { onnx } = this.#options;
    const length = tokens.length;
    const ids = int64(tokens, [1, length]);
    const embedded = await onnx.run(embed.session, {
      feeds: { input_ids: ids },
      fetch: embed.outputs.map(({ name }) => name),
    });
    const given: Record<string, TensorValue> = {
      ...embedded,
      input_ids: ids,
      attention_mask: int64(
        Array.from(tokens, () => 1),
        [1, length],
      ),
      position_ids: int64(tokens.keys(), [1, length]),
      num_logits_to_keep: int64([length - first], []),
    };
    const feeds = Object.fromEntries(
      backbone.inputs.map((input): [string, Feed] => [input.name, given[input.name] ?? emptyCache(input)]),
    );
    const states = (await onnx.run(backbone.session, { feeds, fetch: [hidden], transfer: true }))[hidden];
    if (states?.type !== "float32") throw new RangeError(`${hidden} is not of single precision`);
    const [, count = 0, width = 0] = states.dims;
    // A decoder that knows no `num_logits_to_keep` gives all of them.
    const skipped = count - (length - first);
    return {
      read: async (row, some) =>
        floats(states.data.slice((skipped + row) * width, (skipped + row + some) * width), [1, some, width]),
      close: async () => {},
    };
  }

  /** Logits of the scored tokens from llama.cpp. */
  async #logits(
    handle: number,
    window: Window,
    side: number,
    signal: AbortSignal | undefined,
  ): Promise<Rows> {
    this.#scratch ??= await mkdtemp(join(tmpdir(), "lapidary-logits-"));
    const path = join(this.#scratch, `${side}.f32`);
    await writeFile(path, "");
    const visitor = builtUrl(import.meta.url, "./logits-visitor.js");
    visitor.searchParams.set("to", path);
    await this.#options.llama.score([handle], [window], {
      visitor,
      ...(signal === undefined ? {} : { signal }),
    });
    const file = await open(path, "r");
    const rows = window.tokens.length - 1 - window.first;
    const width = (await file.stat()).size / 4 / rows;
    return {
      read: async (row, some) => {
        const data = new Float32Array(some * width);
        await file.read(new Uint8Array(data.buffer), 0, data.byteLength, row * width * 4);
        return floats(data, [some, width]);
      },
      close: async () => {
        await file.close();
        await truncate(path);
      },
    };
  }

  async #compare(
    models: readonly Loaded[],
    sides: readonly Rows[],
    targets: Int32Array,
    rows: number,
  ): Promise<WindowScores> {
    const { onnx } = this.#options;
    const { session, outputs } = await this.#head(models);
    const columns = models.length === 1 ? singleColumns : pairColumns;
    const scores = new Float64Array(rows * columns);
    const chunk = Math.max(1, Math.min(rows, Math.floor(CHUNK_VALUES / models[0]!.vocabulary)));
    for (let at = 0; at < rows; at += chunk) {
      const some = Math.min(chunk, rows - at);
      const feeds: Record<string, TensorValue> = {
        [head.targets]: int64(targets.subarray(at, at + some), [some]),
      };
      for (const [index, side] of sides.entries()) feeds[head.input(index)] = await side.read(at, some);
      const found = await onnx.run(session, {
        feeds,
        fetch: outputs.map(({ name }) => name),
        transfer: true,
      });
      for (let row = 0; row < some; row++) {
        const to = (at + row) * columns;
        scores[to + column.nll] = number(found[head.nll(0)], row);
        if (models.length === 1) continue;
        scores[to + column.candidateNll] = number(found[head.nll(1)], row);
        scores[to + column.divergence] = number(found[head.divergence(1)], row);
        scores[to + column.sameTop] = number(found[head.sameTop(1)], row);
      }
    }
    return { columns, values: scores };
  }

  async #head(models: readonly Loaded[]): Promise<OpenedModel> {
    const key = models.map((model) => [...this.#loaded].find(([, each]) => each === model)?.[0]).join();
    const known = this.#heads.get(key);
    if (known !== undefined) return known;
    const sides = models.map((model): Side => (model.kind === "onnx" ? model.part : "logits"));
    const opset = Math.max(GRAPH_OPSET, ...models.map((model) => (model.kind === "onnx" ? model.opset : 0)));
    const opened = await this.#options.onnx.open({
      model: await encodeGraph(verificationHead(sides, opset)),
      folder: this.#root,
      threads: this.#options.threads,
      name: "the comparison of logits",
      settings: QUIET,
    });
    this.#heads.set(key, opened);
    return opened;
  }

  bench(_handle: number, _options: BenchOptions): Promise<BenchResult> {
    throw new VerifyError("no-bench", "speed is measured in an engine of its own");
  }

  peakMemory(): Promise<number> {
    return this.#options.onnx.peakMemory();
  }

  async unload(handle: number): Promise<void> {
    const model = this.#get(handle);
    this.#loaded.delete(handle);
    if (model.kind === "llama") {
      await this.#options.llama.unload(model.handle);
      return;
    }
    await this.#options.llama.unload(model.tokenizer);
    for (const { session } of [model.embed, model.backbone]) await this.#options.onnx.close(session);
    for (const [key, { session }] of this.#heads) {
      if (!key.split(",").includes(String(handle))) continue;
      this.#heads.delete(key);
      await this.#options.onnx.close(session);
    }
  }

  /** Ends ONNX Runtime and llama.cpp. */
  async close(): Promise<void> {
    if (this.#scratch !== undefined) await rm(this.#scratch, { recursive: true, force: true });
    await this.#options.onnx.close();
    await this.#options.llama.close();
  }
}

/** What one model gives of the scored tokens, some rows at a time. */
interface Rows {
  read(row: number, count: number): Promise<TensorValue>;
  close(): Promise<void>;
}

function number(tensor: TensorValue | undefined, row: number): number {
  return Number(tensor?.data[row]);
}
