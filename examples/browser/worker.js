// The model, in a thread of its own: one step of it would otherwise freeze the page for as long.
import {
  AutoModelForCausalLM,
  AutoTokenizer,
  env,
  StoppingCriteria,
  TextStreamer,
} from "./runtime/transformers.js";

env.allowRemoteModels = false;
env.allowLocalModels = true;
env.localModelPath = "/models/";
// The server is on this machine: a second copy in the browser's cache would only take space.
env.useBrowserCache = false;
env.useWasmCache = false;

/** Name of the folder under `localModelPath`; the server has one package. */
const MODEL = "package";

/** What can be done about an error, by what it says. */
const ADVICE = [
  [
    /bad_alloc|out of memory|allocation failed|invalid array length|could not be read/i,
    "The tab ran out of memory, of which WebAssembly takes at most 4 GiB. Choose a dtype with fewer bits.",
  ],
  [
    /failed to fetch|networkerror|load failed/i,
    "Is serve.mjs still running? Start it and load this page again.",
  ],
  [/not found locally|no such file/i, "The package is not complete: write it again with lapidary convert."],
  [/webgpu|gpu|shader/i, "Choose WebAssembly as the backend."],
];

/**
 * ONNX Runtime's build for a backend. The one with WebGPU, which transformers.js would take for both, has no kernel on
 * the CPU for GatherBlockQuantized, by which the embeddings of q8, q4 and q2 are looked up; the plain build has.
 */
function runtimeFor(device) {
  const build = `/runtime/ort-wasm-simd-threaded${device === "webgpu" ? ".asyncify" : ""}`;
  return {
    mjs: new URL(`${build}.mjs`, location.href).href,
    wasm: new URL(`${build}.wasm`, location.href).href,
  };
}

let tokenizer;
let model;
let template;

/** An error as the page shows it. ONNX Runtime throws bare numbers when WebAssembly itself gives up. */
function explain(error) {
  const message =
    typeof error === "number"
      ? `ONNX Runtime gave up with code ${error}; out of memory?`
      : String(error.message);
  const [, advice = ""] = ADVICE.find(([pattern]) => pattern.test(message)) ?? [];
  return { type: "error", message, advice };
}

/** The chat template, which transformers.js looks for in tokenizer_config.json only. */
async function readTemplate() {
  if (tokenizer.chat_template) return tokenizer.get_chat_template();
  const response = await fetch(`${env.localModelPath}${MODEL}/chat_template.jinja`);
  return response.ok ? response.text() : undefined;
}

/** Passes on how far a file has come. */
function report({ status, file, loaded, total }) {
  if (status === "progress") postMessage({ type: "progress", file, loaded, total });
}

async function load({ dtype, device, threads }) {
  const started = performance.now();
  env.backends.onnx.wasm.wasmPaths = runtimeFor(device);
  env.backends.onnx.wasm.numThreads = threads;
  tokenizer = await AutoTokenizer.from_pretrained(MODEL);
  template = await readTemplate();
  model = await AutoModelForCausalLM.from_pretrained(MODEL, { dtype, device, progress_callback: report });
  postMessage({
    type: "ready",
    chat: template !== undefined,
    milliseconds: performance.now() - started,
  });
}

/** Ends the answer when the page raises a flag in shared memory: no message gets through between two tokens. */
class Flag extends StoppingCriteria {
  constructor(flag) {
    super();
    this.flag = flag;
  }

  _call(sequences) {
    return sequences.map(() => Atomics.load(this.flag, 0) !== 0);
  }
}

/** The prompt as token ids, int64 [1, tokens]. */
function encode({ prompt, chat }) {
  if (!chat) return tokenizer(prompt);
  return tokenizer.apply_chat_template([{ role: "user", content: prompt }], {
    chat_template: template,
    add_generation_prompt: true,
    return_dict: true,
  });
}

async function answer(request) {
  const inputs = encode(request);
  const promptTokens = inputs.input_ids.dims.at(-1);
  const limit = model.config.text_config?.max_position_embeddings ?? Infinity;
  if (promptTokens + request.maxTokens > limit) {
    throw new Error(
      `Prompt and answer would have ${promptTokens + request.maxTokens} tokens; the model takes ${limit}.`,
    );
  }
  const started = performance.now();
  const times = [];
  const streamer = new TextStreamer(tokenizer, {
    skip_prompt: true,
    skip_special_tokens: true,
    callback_function: (text) => postMessage({ type: "text", text, tokens: times.length }),
    token_callback_function: () => times.push(performance.now()),
  });
  await model.generate({
    ...inputs,
    max_new_tokens: request.maxTokens,
    do_sample: !request.greedy,
    streamer,
    stopping_criteria: new Flag(request.flag),
  });
  const [first = started] = times;
  postMessage({
    type: "done",
    promptTokens,
    answerTokens: times.length,
    stopped: Atomics.load(request.flag, 0) !== 0,
    firstMilliseconds: first - started,
    // The first token comes from reading the prompt: only the others tell the speed.
    tokensPerSecond: times.length > 1 ? ((times.length - 1) / (times.at(-1) - first)) * 1000 : undefined,
  });
}

const requests = { load, answer };

// transformers.js starts reading a graph's data files beside the graph, and nobody waits for the one that fails.
addEventListener("unhandledrejection", (event) => {
  event.preventDefault();
  postMessage(explain(event.reason));
});

addEventListener("message", ({ data }) => {
  requests[data.type](data).catch((error) => postMessage(explain(error)));
});
