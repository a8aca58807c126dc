import { spawn } from "node:child_process";
import { mkdirSync } from "node:fs";
import { copyFile, mkdir, readFile, rm, rmdir, utimes, writeFile } from "node:fs/promises";
import { hostname } from "node:os";
import { join } from "node:path";
import { beforeAll, describe, expect, it } from "vitest";
import { packageRoot } from "../../src/base/paths.js";
import type { PlanOptions } from "../../src/plan/plan.js";
import { readJournal } from "../../src/quantize/journal.js";
import { runPlan, type RunPlanOptions } from "../../src/quantize/quantize.js";
import { makeCheckpoint } from "../support/checkpoints.js";
import { filesIn, prepare, scratch } from "./nano.js";

const root = scratch();
const source = join(root, "source");
const memoryBytes = 2 ** 26;

beforeAll(async () => {
  // Some 25 million values: most of a second for one thread, which is looked at ten times in it.
  await makeCheckpoint(source, { hidden: 768, text: { intermediate_size: 1024 } });
});

async function place(name: string): Promise<string> {
  const folder = join(root, name);
  await mkdir(folder);
  return folder;
}

async function run(output: string, planOptions: PlanOptions, options: Partial<RunPlanOptions> = {}) {
  const prepared = await prepare(source, planOptions);
  return runPlan({ ...prepared, output, threads: 1, memoryBytes, ...options });
}

/** Starts a run and aborts it once a tensor is finished; what it wrote stays. */
async function breakOff(output: string, mix = "Q6_K"): Promise<void> {
  const controller = new AbortController();
  const reason = new Error("enough");
  const running = run(
    output,
    { mix },
    {
      signal: controller.signal,
      onProgress: ({ tensor }) => {
        if (tensor !== "token_embd.weight") controller.abort(reason);
      },
    },
  );
  await expect(running).rejects.toBe(reason);
}

const whole = new Map<string, Promise<Buffer>>();

/** What an undisturbed run writes. */
function wholeFile(mix: string): Promise<Buffer> {
  const output = join(root, `whole-${mix}.gguf`);
  const file = whole.get(mix) ?? run(output, { mix }, { threads: 2 }).then(() => readFile(output));
  whole.set(mix, file);
  return file;
}

/** Indices of the finished tensors that a journal names. */
async function journalled(output: string): Promise<number[]> {
  return [...((await readJournal(output))?.finished.keys() ?? [])];
}

describe("a run that is broken off", () => {
  it("leaves nothing under the final name, and the next one goes on to the same bytes", async () => {
    const folder = await place("abort");
    const output = join(folder, "out.gguf");
    await breakOff(output);
    expect(await filesIn(folder)).toEqual(["out.gguf.journal", "out.gguf.partial"]);
    const done = (await journalled(output)).length;
    expect(done).toBeGreaterThan(0);
    const reports: number[] = [];
    const { resumed } = await run(
      output,
      { mix: "Q6_K" },
      { onProgress: ({ bytesRead }) => reports.push(bytesRead) },
    );
    expect(resumed).toBe(done);
    expect(reports[0]).toBeGreaterThan(0);
    expect(await filesIn(folder)).toEqual(["out.gguf"]);
    expect((await readFile(output)).equals(await wholeFile("Q6_K"))).toBe(true);
  });

  it("is continued after the process was killed in the middle", async () => {
    const folder = await place("kill");
    const output = join(folder, "out.gguf");
    const prepared = await prepare(source, { mix: "Q6_K" });
    // The plan travels as text; what it generates is bytes, which JSON does not know.
    const text = JSON.stringify(
      {
        plan: prepared.plan,
        metadata: [["general.architecture", { type: "string", value: "gemma4" }]],
        output,
        memoryBytes,
      },
      (_, value: unknown) => (value instanceof Uint8Array ? { bytes: [...value] } : value),
    );
    await writeFile(join(folder, "order.json"), text);
    const script = `
      import { readFileSync } from "node:fs";
      import { runPlan } from ${JSON.stringify(`file://${join(packageRoot, "dist/src/quantize/quantize.js")}`)};
      const order = JSON.parse(readFileSync(process.argv[1], "utf8"), (_, value) =>
        value?.bytes instanceof Array ? Uint8Array.from(value.bytes) : value);
      await runPlan({ ...order, threads: 1, checkpointMs: 0, onProgress: () => {
        const lines = readFileSync(order.output + ".journal", "utf8").trim().split("\\n");
        if (lines.length > 1) process.kill(process.pid, "SIGKILL");
      } });`;
    const child = spawn(process.execPath, ["--input-type=module", "-e", script, join(folder, "order.json")], {
      stdio: ["ignore", "inherit", "inherit"],
    });
    const signal = await new Promise((resolve) => child.once("exit", (_, by) => resolve(by)));
    expect(signal).toBe("SIGKILL");
    await rm(join(folder, "order.json"));
    expect(await filesIn(folder)).toEqual(["out.gguf.journal", "out.gguf.lock", "out.gguf.partial"]);
    const done = (await journalled(output)).length;
    const metadata = [["general.architecture", { type: "string", value: "gemma4" }]] as const;
    const { resumed } = await run(output, { mix: "Q6_K" }, { metadata });
    expect(resumed).toBe(done);
    const fresh = join(folder, "fresh.gguf");
    await run(fresh, { mix: "Q6_K" }, { metadata });
    expect((await readFile(output)).equals(await readFile(fresh))).toBe(true);
  });

  it("goes on when the last line of the journal was cut short", async () => {
    const folder = await place("torn");
    const output = join(folder, "out.gguf");
    await breakOff(output);
    const journal = `${output}.journal`;
    await writeFile(journal, `${await readFile(journal, "utf8")}{"tile":524288,"done":[[3,"0`);
    await run(output, { mix: "Q6_K" });
    expect((await readFile(output)).equals(await wholeFile("Q6_K"))).toBe(true);
  });

  it("begins anew when the journal or the partial file is missing or damaged", async () => {
    const folder = await place("damaged");
    const output = join(folder, "out.gguf");
    const damages = [
      () => rm(`${output}.journal`),
      () => rm(`${output}.partial`),
      () => writeFile(`${output}.journal`, "no journal"),
      () => writeFile(`${output}.partial`, "short"),
    ];
    for (const damage of damages) {
      await breakOff(output);
      await damage();
      expect(await run(output, { mix: "Q6_K" })).toMatchObject({ resumed: 0 });
      expect((await readFile(output)).equals(await wholeFile("Q6_K"))).toBe(true);
      await rm(output);
    }
  });

  it("by its own progress report rejects with what that threw, and is continued", async () => {
    const folder = await place("throws");
    const output = join(folder, "out.gguf");
    const failure = new Error("the bar broke");
    let calls = 0;
    const onProgress: RunPlanOptions["onProgress"] = ({ tensor }) => {
      if (tensor === "token_embd.weight") return;
      calls += 1;
      throw failure;
    };
    await expect(run(output, { mix: "Q6_K" }, { onProgress })).rejects.toBe(failure);
    expect(calls).toBe(1);
    expect(await filesIn(folder)).toEqual(["out.gguf.journal", "out.gguf.partial"]);
    const done = (await journalled(output)).length;
    expect(await run(output, { mix: "Q6_K" })).toMatchObject({ resumed: done });
    expect((await readFile(output)).equals(await wholeFile("Q6_K"))).toBe(true);
  });

  it("at the very end, by something in the way of its name, keeps its work", async () => {
    const folder = await place("name-taken");
    const output = join(folder, "out.gguf");
    const running = run(
      output,
      { mix: "Q6_K" },
      { onProgress: () => mkdirSync(output, { recursive: true }) },
    );
    await expect(running).rejects.toMatchObject({ code: "output-kind" });
    expect(await filesIn(folder)).toEqual(["out.gguf", "out.gguf.journal", "out.gguf.partial"]);
    await rmdir(output);
    const { plan } = await prepare(source, { mix: "Q6_K" });
    const { resumed } = await run(output, { mix: "Q6_K" });
    expect(resumed).toBe(plan.tensors.filter(({ origin }) => origin.kind === "file").length);
    expect((await readFile(output)).equals(await wholeFile("Q6_K"))).toBe(true);
  });

  it("of an aborted signal writes nothing at all", async () => {
    const folder = await place("early");
    await expect(
      run(join(folder, "out.gguf"), { mix: "Q8_0" }, { signal: AbortSignal.abort(new Error("early")) }),
    ).rejects.toThrow("early");
    expect(await filesIn(folder)).toEqual([]);
  });
});

describe("other work into the same file", () => {
  it("is refused, and done when replacing is allowed", async () => {
    const folder = await place("other");
    const output = join(folder, "out.gguf");
    await breakOff(output);
    await expect(run(output, { mix: "Q8_0" })).rejects.toMatchObject({
      code: "journal-differs",
      exitCode: 2,
      message: expect.stringContaining("it makes Q6_K, this would make Q8_0") as unknown,
    });
    const metadata = [["general.name", { type: "string", value: "other" }]] as const;
    await expect(run(output, { mix: "Q6_K" }, { metadata })).rejects.toThrow(
      /it has other metadata \(general\.name, .* and \d+ more\)/,
    );
    // Nothing was lost by asking.
    expect((await journalled(output)).length).toBeGreaterThan(0);
    await run(output, { mix: "Q8_0" }, { overwrite: true });
    expect(await filesIn(folder)).toEqual(["out.gguf"]);
    expect((await readFile(output)).equals(await wholeFile("Q8_0"))).toBe(true);
  });

  it("is refused when the input is not the one it was", async () => {
    const folder = await place("input");
    const output = join(folder, "out.gguf");
    await breakOff(output);
    const shard = join(source, "model.safetensors");
    await copyFile(shard, join(folder, "keep"));
    try {
      await utimes(shard, 1, 1);
      await expect(run(output, { mix: "Q6_K" })).rejects.toThrow(
        /its input .*model\.safetensors was changed: it was of .*, now it is of 1970-01-01/,
      );
    } finally {
      await rm(shard);
      await copyFile(join(folder, "keep"), shard);
    }
  });

  it("is refused while another process is at it", async () => {
    const folder = await place("busy");
    const output = join(folder, "out.gguf");
    const holder = { host: hostname(), pid: process.ppid, started: null };
    await writeFile(`${output}.lock`, JSON.stringify(holder));
    for (const overwrite of [false, true]) {
      await expect(run(output, { mix: "Q8_0" }, { overwrite })).rejects.toMatchObject({
        code: "in-use",
        exitCode: 2,
      });
    }
  });
});
