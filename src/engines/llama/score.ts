import { EngineError } from "../errors.js";
import type { CreateVisitor, Window, WindowScores } from "../types.js";
import { planBatches } from "./batches.js";
import type { Llama, Pointer } from "./library.js";
import { checkDecoded, LoggedError, type Model } from "./model.js";

interface Runner {
  readonly model: Model;
  readonly context: Pointer;
}

/** @throws EngineError when the module does not export `createVisitor` */
async function loadVisitor(url: string): Promise<CreateVisitor> {
  const module: unknown = await import(url);
  const { createVisitor } = module as { createVisitor?: CreateVisitor };
  if (typeof createVisitor !== "function") {
    throw new EngineError("engine-visitor", `${url} does not export createVisitor.`);
  }
  return createVisitor;
}

function checkWindow({ tokens, first }: Window, index: number, { model }: Runner): void {
  if (tokens.length > model.context) {
    throw new EngineError(
      "engine-window",
      `Window ${index} has ${tokens.length} tokens, but ${model.info.path} was loaded for ${model.context}.`,
    );
  }
  if (!Number.isSafeInteger(first) || first < 0 || first > tokens.length - 2) {
    throw new EngineError(
      "engine-window",
      `Window ${index} is to be scored from position ${first}, but only positions 0 to ${tokens.length - 2} have a token after them.`,
    );
  }
  const stranger = tokens.findIndex((token) => token < 0 || token >= model.info.vocabulary);
  if (stranger >= 0) {
    throw new EngineError(
      "engine-window",
      `Window ${index} has token ${tokens[stranger]} at position ${stranger}, but ${model.info.path} knows ${model.info.vocabulary} tokens.`,
    );
  }
}

/**
 * Runs windows through several models side by side and hands every scored position's logits to a visitor.
 *
 * Tokens go in batches that ask for so few rows of logits that these stay small; the last token of a
 * window is only ever a target and is not run. Nothing is copied: a row is a view on llama.cpp's buffer.
 *
 * @param onWindow called after each window with its numbers
 * @throws EngineError for a window that the models cannot take, or models with different vocabularies
 */
export async function score(
  llama: Llama,
  models: readonly Model[],
  windows: readonly Window[],
  visitorUrl: string,
  onWindow: (scores: WindowScores) => void,
): Promise<void> {
  const runners: Runner[] = [];
  for (const model of models) runners.push({ model, context: await model.scoringContext() });
  const lead = runners[0];
  if (lead === undefined) throw new EngineError("engine-handle", "No model was named to score.");
  const vocabulary = lead.model.info.vocabulary;
  for (const { model } of runners) {
    if (model.info.vocabulary !== vocabulary) {
      throw new EngineError(
        "engine-vocabulary",
        `${model.info.path} has ${model.info.vocabulary} tokens, ${lead.model.info.path} has ${vocabulary}: they cannot be compared.`,
      );
    }
  }
  windows.forEach((window, index) => {
    for (const runner of runners) checkWindow(window, index, runner);
  });

  const visitor = (await loadVisitor(visitorUrl))(vocabulary, runners.length);
  const { columns } = visitor;
  const maxTokens = Math.min(...runners.map(({ model }) => model.batchTokens));
  const maxRows = Math.min(...runners.map(({ model }) => model.rows));
  // Never tiny: V8 may move the storage of a typed array of up to 64 bytes while llama.cpp reads it.
  const tokens = new Int32Array(Math.max(maxTokens, 64));
  const wanted = new Int8Array(Math.max(maxTokens, 128));

  for (const window of windows) {
    const end = window.tokens.length - 1;
    const values = new Float64Array((end - window.first) * columns);
    for (const { context } of runners) llama.clearMemory(context, true);
    for (const { start, stop, rows } of planBatches(end, window.first, maxTokens, maxRows)) {
      tokens.set(window.tokens.subarray(start, stop));
      wanted.fill(0).fill(1, stop - start - rows, stop - start);
      const batch = {
        n_tokens: stop - start,
        token: tokens,
        embd: null,
        pos: null,
        n_seq_id: null,
        seq_id: null,
        logits: wanted,
      };
      const logits: Float32Array[] = [];
      for (const { model, context } of runners) {
        checkDecoded(await llama.decodeAsync(context, batch), model);
        if (rows === 0) continue;
        const view = llama.logits(context, rows, vocabulary);
        if (view === null) {
          throw new LoggedError("engine-decode", `llama.cpp gave no logits for ${model.info.path}.`);
        }
        logits.push(view);
      }
      for (let i = 0; i < rows; i++) {
        const position = stop - rows + i;
        const row = position - window.first;
        visitor.visit(
          logits.map((all) => all.subarray(i * vocabulary, (i + 1) * vocabulary)),
          window.tokens[position + 1]!,
          values.subarray(row * columns, (row + 1) * columns),
        );
      }
    }
    onWindow({ columns, values });
  }
}
