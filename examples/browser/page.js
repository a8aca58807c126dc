// The page: what is shown and asked. The model runs in worker.js.
const $ = (id) => document.getElementById(id);

const flag = globalThis.SharedArrayBuffer && new Int32Array(new SharedArrayBuffer(4));
const worker = new Worker("worker.js", { type: "module" });
/** Bytes by file: what has come and what there is. */
const files = new Map();

const seconds = (milliseconds) => `${(milliseconds / 1000).toFixed(milliseconds < 10_000 ? 2 : 0)} s`;
const mebibytes = (bytes) => `${(bytes / 1024 ** 2).toFixed(1)} MiB`;
const count = (tokens) => `${tokens} token${tokens === 1 ? "" : "s"}`;

/** Shows an error, or that there is none. */
function showError(message = "", advice = "") {
  $("error-message").textContent = message;
  $("error-advice").textContent = advice;
  $("error").hidden = message === "";
}

/** Enables what makes sense while a model is there and not at work. */
function setState(state, text) {
  document.body.dataset.state = state;
  $("status").textContent = text;
  $("progress").hidden = state !== "loading";
  $("run").disabled = state !== "ready";
  $("stop").disabled = state !== "answering";
  $("answer").ariaBusy = String(state === "answering");
}

const receive = {
  progress({ file, loaded, total }) {
    files.set(file, { loaded, total });
    const sum = (key) => [...files.values()].reduce((bytes, entry) => bytes + (entry[key] ?? 0), 0);
    $("progress").value = sum("loaded") / Math.max(1, sum("total"));
    $("bytes").textContent = mebibytes(sum("loaded"));
  },
  ready({ chat, milliseconds }) {
    $("load-time").textContent = seconds(milliseconds);
    if (!chat) {
      $("mode").value = "text";
      $("mode").disabled = true;
    }
    setState("ready", "Ready.");
  },
  text({ text, tokens }) {
    $("answer").append(text);
    $("answer-tokens").textContent = count(tokens);
  },
  done({ promptTokens, answerTokens, stopped, firstMilliseconds, tokensPerSecond }) {
    $("prompt-tokens").textContent = count(promptTokens);
    $("answer-tokens").textContent = count(answerTokens);
    $("first-token").textContent = seconds(firstMilliseconds);
    $("speed").textContent = tokensPerSecond === undefined ? "–" : `${tokensPerSecond.toFixed(1)} tokens/s`;
    setState("ready", stopped ? "Stopped." : "Ready.");
  },
  error({ message, advice }) {
    showError(message, advice);
    // A model that was there still is; one that did not load is not.
    const loaded = document.body.dataset.state === "answering";
    setState(loaded ? "ready" : "failed", loaded ? "Ready." : "The model did not load.");
  },
};

function ask(event) {
  event.preventDefault();
  if (document.body.dataset.state !== "ready") return;
  showError();
  $("answer").textContent = "";
  for (const id of ["prompt-tokens", "answer-tokens", "first-token", "speed"]) $(id).textContent = "–";
  setState("answering", "Answering …");
  Atomics.store(flag, 0, 0);
  worker.postMessage({
    type: "answer",
    prompt: $("prompt").value,
    chat: $("mode").value === "chat",
    maxTokens: $("max-tokens").valueAsNumber,
    greedy: $("greedy").checked,
    flag,
  });
}

/**
 * Fills a list; what is chosen there stands in the page's address, and choosing loads the page anew.
 *
 * @param options value and label of each
 * @param preset the value for an address without one
 */
function fill(name, options, preset = options[0][0]) {
  const select = $(name);
  select.replaceChildren(...options.map(([value, label]) => new Option(label, value)));
  const wanted = new URLSearchParams(location.search).get(name);
  select.value = options.some(([value]) => value === wanted) ? wanted : preset;
  select.disabled = options.length === 1;
  select.addEventListener("change", () => {
    const query = new URLSearchParams(location.search);
    query.set(name, select.value);
    location.search = query;
  });
  return select.value;
}

async function start() {
  setState("loading", "Loading …");
  if (flag === undefined || !crossOriginIsolated) {
    throw new Error("The page is not isolated: serve it with serve.mjs, which sends the headers for that.");
  }
  const response = await fetch("about.json");
  if (!response.ok) throw new Error(`about.json: the server answers ${response.status}.`);
  const { name, choices } = await response.json();
  $("model").textContent = name;
  document.title = `${name} in the browser`;
  const label = fill(
    "dtype",
    choices.map((choice) => [choice.label, choice.label]),
  );
  const gpu = await navigator.gpu?.requestAdapter().catch(() => null);
  const device = fill("device", [["wasm", "WebAssembly"], ...(gpu ? [["webgpu", "WebGPU"]] : [])]);
  const cores = navigator.hardwareConcurrency;
  const counts = Array.from({ length: Math.max(2, cores) }, (_, index) => String(index + 1));
  // Half of them is what ONNX Runtime takes by itself: two threads of one core share its arithmetic.
  const threads = fill(
    "threads",
    counts.map((value) => [value, value]),
    String(Math.ceil(cores / 2)),
  );
  const { dtype } = choices.find((choice) => choice.label === label);
  worker.postMessage({ type: "load", dtype, device, threads: Number(threads) });
}

worker.addEventListener("message", ({ data }) => receive[data.type](data));
worker.addEventListener("error", (event) => {
  receive.error({ message: event.message ?? "worker.js did not load.", advice: "Load this page again." });
});
$("ask").addEventListener("submit", ask);
$("stop").addEventListener("click", () => Atomics.store(flag, 0, 1));
$("prompt").addEventListener("keydown", (event) => {
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) $("ask").requestSubmit();
});
start().catch((error) => receive.error({ message: error.message }));
