/*
 * A rounding thread: ONNX Runtime for the large products, the kernels for what is inside a panel. It takes one task
 * after another from the main thread. Started by crew.ts only.
 */
import { closeSync, openSync } from "node:fs";
import { parentPort, workerData } from "node:worker_threads";
import { LapidaryError } from "../../src/base/errors.js";
import { Gate, Stopped } from "../../src/engines/onnx/gate.js";
import { loadRuntime, type Runtime } from "../../src/engines/onnx/runtime.js";
import { KernelRounder } from "./kernel-rounder.js";
import { Products } from "./products.js";
import type {
  FactorTask,
  RoundTask,
  TaskResults,
  ThreadReply,
  ThreadRequest,
  ThreadSetup,
} from "./protocol.js";
import { factorValues, reverseLdl } from "./reverse-ldl.js";
import { roundRows } from "./round-rows.js";
import { readRows } from "./source.js";

const setup = workerData as ThreadSetup;
const gate = new Gate(setup.gate);
const products = new Map<number, Promise<Products>>();
const rounder = new KernelRounder(setup.kernels);
/** Checkpoints have few shards. */
const files = new Map<string, number>();
let runtime: Promise<Runtime> | undefined;

/** Products on so many threads. */
async function productsOn(threads: number): Promise<Products> {
  runtime ??= gate.pass(() => loadRuntime(setup.runtime));
  const loaded = await runtime;
  const found = products.get(threads) ?? Products.open(loaded, threads, gate);
  products.set(threads, found);
  return found;
}

function descriptorOf(path: string): number {
  const descriptor = files.get(path) ?? openSync(path, "r");
  files.set(path, descriptor);
  return descriptor;
}

async function factor(task: FactorTask): Promise<TaskResults["factor"]> {
  const { damping } = await reverseLdl(
    await productsOn(task.threads),
    task.matrix,
    task.factor,
    task.damping,
  );
  return { damping };
}

async function round(task: RoundTask): Promise<TaskResults["round"]> {
  const { source, first, rows, rowForm, target, effort, columnFactors, outputs } = task;
  const own = await productsOn(1);
  const values = readRows(descriptorOf(source.path), source, first, rows);
  const rowFactor =
    rowForm === null
      ? null
      : await reverseLdl(
          own,
          rowForm.matrix,
          {
            size: rows,
            panels: new Float32Array(factorValues(rows)),
            pivots: new Float32Array(rows),
            damping: 0,
          },
          rowForm.damping,
        );
  const loss = await roundRows(own, rounder, {
    target,
    effort,
    rows,
    columns: source.columns,
    values,
    columnFactors,
    rowFactor,
    outputs,
  });
  return { loss, damping: rowFactor?.damping ?? null };
}

async function answer(id: number, task: FactorTask | RoundTask): Promise<ThreadReply> {
  try {
    const result = await (task.kind === "factor" ? factor(task) : round(task));
    return { kind: "success", id, result };
  } catch (error) {
    if (error instanceof Stopped) throw error;
    const message = error instanceof Error ? error.message : String(error);
    if (!(error instanceof LapidaryError))
      return { kind: "failure", id, code: "rounding-failed", message, exitCode: 1 };
    const { code, exitCode, advice } = error;
    return { kind: "failure", id, code, message, exitCode, ...(advice === undefined ? {} : { advice }) };
  }
}

function end(): void {
  for (const descriptor of files.values()) closeSync(descriptor);
  parentPort?.close();
}

let last = Promise.resolve();
parentPort?.on("message", (request: ThreadRequest) => {
  last = last.then(async () => {
    if ("end" in request) {
      end();
      return;
    }
    try {
      parentPort?.postMessage(await answer(request.id, request.task), []);
    } catch (error) {
      if (!(error instanceof Stopped)) throw error;
      end();
    }
  });
});
