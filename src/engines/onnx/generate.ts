import { EngineError } from "../errors.js";
import { decoderLayout, type DecoderLayout, TOKEN_INPUTS } from "./layout.js";
import type { Runtime, RuntimeTensor } from "./runtime.js";
import type { Session } from "./session.js";
import { toRuntime } from "./tensors.js";
import type { GenerateOptions, Generation, TensorValue } from "./types.js";

/** Logits of a whole prompt: 1,024 tokens at 262,144 logits. Longer texts are measured without fetching them. */
const MAX_LOGITS_BYTES = 2 ** 30;

/** Logits of the last tokens of a pass. */
interface Logits {
  readonly rows: number;
  readonly vocabulary: number;
  /** Row-major. */
  readonly values: Float32Array;
}

function lastRow({ rows, vocabulary, values }: Logits): Float32Array {
  return values.subarray((rows - 1) * vocabulary, rows * vocabulary);
}

/** A decoder at work on one text: its caches hold what it has seen. */
class Decoder {
  readonly #runtime: Runtime;
  readonly #embed: Session | undefined;
  readonly #decoder: Session;
  readonly #layout: DecoderLayout;
  /** By input. */
  #caches: Record<string, RuntimeTensor> = {};
  #past = 0;
  /** Known from the start where the graph declares it. */
  #vocabulary: number | undefined;

  constructor(runtime: Runtime, embed: Session | undefined, decoder: Session) {
    this.#runtime = runtime;
    this.#embed = embed;
    this.#decoder = decoder;
    this.#layout = decoderLayout(decoder, embed);
    const declared = decoder.output(this.#layout.logits)?.shape.at(-1);
    if (typeof declared === "number") this.#vocabulary = declared;
    for (const { input, type, emptyDims } of this.#layout.caches) {
      const data = type === "float32" ? new Float32Array(0) : new Uint16Array(0);
      this.#caches[input] = this.#tensor({ type, dims: emptyDims, data } as TensorValue, input);
    }
  }

  /** Logits a token; undefined before the first pass of a graph that does not declare it. */
  get vocabulary(): number | undefined {
    return this.#vocabulary;
  }

  #tensor(value: TensorValue, name: string): RuntimeTensor {
    return toRuntime(this.#runtime, value, `${this.#decoder.file}: the input ${name}`);
  }

  #integers(data: BigInt64Array, dims: readonly number[], name: string): RuntimeTensor {
    return this.#tensor({ type: "int64", dims, data }, name);
  }

  /** @param keep how many of the last tokens get logits; 0 for all */
  #tokenFeeds(tokens: Int32Array, keep: number): Record<(typeof TOKEN_INPUTS)[number], RuntimeTensor> {
    const count = tokens.length;
    const total = this.#past + count;
    // A scalar in the layout; some exporters make it a list of one.
    const keepDims = (this.#decoder.input("num_logits_to_keep")?.shape ?? []).map(() => 1);
    return {
      input_ids: this.#integers(BigInt64Array.from(tokens, BigInt), [1, count], "input_ids"),
      attention_mask: this.#integers(new BigInt64Array(total).fill(1n), [1, total], "attention_mask"),
      position_ids: this.#integers(
        BigInt64Array.from({ length: count }, (_, at) => BigInt(this.#past + at)),
        [1, count],
        "position_ids",
      ),
      num_logits_to_keep: this.#integers(BigInt64Array.of(BigInt(keep)), keepDims, "num_logits_to_keep"),
    };
  }

  /**
   * Runs tokens that follow those of the passes before.
   *
   * @param keep how many of the last tokens get logits; 0 for all. A graph that cannot choose gives all.
   */
  async pass(tokens: Int32Array, keep: number): Promise<Logits> {
    const { caches, embedded, logits } = this.#layout;
    const known = this.#tokenFeeds(tokens, keep);
    const feeds: Record<string, RuntimeTensor> = { ...this.#caches };
    if (this.#embed !== undefined) {
      Object.assign(feeds, await this.#embed.run({ input_ids: known.input_ids }, embedded));
    }
    for (const name of TOKEN_INPUTS) {
      if (feeds[name] === undefined && this.#decoder.input(name) !== undefined) feeds[name] = known[name];
    }
    const results = await this.#decoder.run(feeds, [logits, ...caches.map(({ output }) => output)]);
    this.#past += tokens.length;
    const next: Record<string, RuntimeTensor> = {};
    for (const { input, output } of caches) {
      const cache = results[output]!;
      if (cache.dims[2] !== this.#past) {
        throw new EngineError(
          "engine-layout",
          `${this.#decoder.file}: ${output} has the length ${cache.dims[2]} after ${this.#past} tokens.`,
        );
      }
      next[input] = cache;
    }
    this.#caches = next;
    return this.#checked(results[logits]!, tokens.length, keep);
  }

  #checked({ dims, data }: RuntimeTensor, tokens: number, keep: number): Logits {
    const [batch, rows = 0, vocabulary = 0] = dims;
    const selects = this.#decoder.input("num_logits_to_keep") !== undefined;
    const expected = keep === 0 || !selects ? tokens : keep;
    this.#vocabulary ??= vocabulary;
    if (
      dims.length !== 3 ||
      batch !== 1 ||
      rows !== expected ||
      vocabulary === 0 ||
      vocabulary !== this.#vocabulary
    ) {
      throw new EngineError(
        "engine-layout",
        `${this.#decoder.file} gave logits of the shape [${dims.join(", ")}], expected [1, ${expected}, ${this.#vocabulary || "vocabulary"}].`,
      );
    }
    return { rows, vocabulary, values: data as RuntimeTensor["data"] & Float32Array };
  }
}

/** Index of the largest logit; the first of equal ones, as in every framework. */
function likeliest(logits: Float32Array, file: string): number {
  let best = -1;
  let largest = -Infinity;
  for (let token = 0; token < logits.length; token++) {
    if (logits[token]! > largest) {
      largest = logits[token]!;
      best = token;
    }
  }
  if (best < 0) {
    throw new EngineError("engine-logits", `${file}: no logit is a finite number, so no token is likeliest.`);
  }
  return best;
}

function checkOptions({ prompt, steps, chunk = 1 }: GenerateOptions): void {
  const stranger = prompt.findIndex((token) => token < 0);
  const problem =
    prompt.length === 0
      ? "the prompt has no tokens, expected at least one"
      : stranger >= 0
        ? `token ${prompt[stranger]} at position ${stranger} of the prompt is none`
        : !Number.isSafeInteger(steps) || steps < 0
          ? `${steps} steps are asked for, expected a whole number from 0 up`
          : !Number.isSafeInteger(chunk) || chunk < 1
            ? `chunks of ${chunk} tokens are asked for, expected at least 1`
            : undefined;
  if (problem === undefined) return;
  throw new EngineError("engine-generate", `Nothing can be generated: ${problem}.`, { exitCode: 2 });
}

interface PromptResult {
  /** After its last token. */
  readonly last: Float32Array;
  readonly seconds: number;
  /** Of all its tokens, when asked for. */
  readonly all: Float32Array | undefined;
}

async function runPrompt(
  decoder: Decoder,
  prompt: Int32Array,
  chunk: number,
  wantsAll: boolean,
): Promise<PromptResult> {
  let seconds = 0;
  const { vocabulary } = decoder;
  // Before the first pass where that is possible: it may make as much.
  let all = wantsAll && vocabulary !== undefined ? promptLogits(prompt.length, vocabulary) : undefined;
  for (let start = 0; ; start += chunk) {
    const tokens = prompt.slice(start, start + chunk);
    const before = performance.now();
    const logits = await decoder.pass(tokens, wantsAll ? 0 : 1);
    seconds += (performance.now() - before) / 1000;
    if (wantsAll) {
      all ??= promptLogits(prompt.length, logits.vocabulary);
      all.set(logits.values, start * logits.vocabulary);
    }
    if (start + chunk >= prompt.length) return { last: lastRow(logits), seconds, all };
  }
}

function promptLogits(tokens: number, vocabulary: number): Float32Array {
  const bytes = tokens * vocabulary * 4;
  if (bytes <= MAX_LOGITS_BYTES) return new Float32Array(tokens * vocabulary);
  throw new EngineError(
    "engine-generate",
    `The logits of ${tokens} tokens have ${bytes} bytes, at most ${MAX_LOGITS_BYTES} are returned.`,
    { exitCode: 2, advice: "Ask for a shorter prompt." },
  );
}

/**
 * Runs a prompt and generates after it, as `OnnxEngine.generate` says.
 *
 * @param embed the session that `options.embed` names
 * @param decoder the session that `options.decoder` names
 */
export async function generate(
  runtime: Runtime,
  embed: Session | undefined,
  decoder: Session,
  options: GenerateOptions,
): Promise<Generation> {
  checkOptions(options);
  const { prompt, steps, choose, logits, chunk = prompt.length } = options;
  const stops = new Set(choose === "greedy" ? options.stopTokens : []);
  const running = new Decoder(runtime, embed, decoder);
  const { last, seconds, all } = await runPrompt(running, prompt, chunk, logits === "all");
  const tokens: number[] = [];
  const stepSeconds: number[] = [];
  let row = last;
  while (stepSeconds.length < steps) {
    const token = choose === "greedy" ? likeliest(row, decoder.file) : prompt.at(-1)!;
    tokens.push(token);
    if (stops.has(token)) break;
    const before = performance.now();
    const next = await running.pass(Int32Array.of(token), 1);
    stepSeconds.push((performance.now() - before) / 1000);
    row = lastRow(next);
  }
  return {
    tokens: Int32Array.from(tokens),
    promptSeconds: seconds,
    stepSeconds,
    ...(logits === undefined ? {} : { lastLogits: row.slice() }),
    ...(all === undefined ? {} : { promptLogits: all }),
  };
}
