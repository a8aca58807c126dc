import { cpSync, readdirSync, readFileSync, utimesSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { beforeAll, describe, expect, it } from "vitest";
import Build from "../../commands/build.js";
import Convert from "../../commands/convert.js";
import Quantize from "../../commands/quantize.js";
import { openGguf } from "../../formats/gguf/read.js";
import type { GgufTensor } from "../../formats/gguf/types.js";
import { hashFile } from "../../src/pipeline/hash.js";
import { makeCheckpoint } from "../support/checkpoints.js";
import { lapidary } from "../support/command.js";
import { convertFixture, nanoCheckpoint, scratchFolder } from "../support/convert.js";
import { writeImatrix } from "../support/imatrix.js";
import { type CommandRun, runCommand } from "../support/run-command.js";

function quantize(source: string, out: string, ...flags: string[]): Promise<CommandRun> {
  const common = ["--type", "q4_0", "--method", "ggml", "--out", out, "--threads", "1"];
  return runCommand(Quantize, [source, ...common, ...flags]);
}

function misuse(words: RegExp): unknown {
  return expect.objectContaining({ code: 2, stdout: "", stderr: expect.stringMatching(words) as unknown });
}

/** Spoils the first bytes of a tensor. */
function spoil(path: string, { offset }: GgufTensor): void {
  const bytes = readFileSync(path);
  bytes.fill(0x55, offset, offset + 8);
  writeFileSync(path, bytes);
}

describe("--redo", () => {
  it("does tensors again in a file that is there, without --force", async () => {
    const out = join(scratchFolder(), "nano.gguf");
    cpSync(await convertFixture("Q4_0"), out);
    const before = readFileSync(out);
    const { tensors } = await openGguf(out);
    const last = tensors.at(-1);
    expect(last).toBeDefined();
    if (last === undefined) return;
    spoil(out, last);
    expect(readFileSync(out).equals(before)).toBe(false);
    const pattern = last.name.toUpperCase().replaceAll(".", "\\.");
    const run = await quantize(nanoCheckpoint, out, "--redo", pattern, "--json");
    expect(run.code).toBe(0);
    expect(run.stderr).toMatch(/nano\.gguf: continued behind \d+ tensors, 1 done again as asked/);
    expect(JSON.parse(run.stdout)).toMatchObject({
      // rope_freqs is written in any case.
      artifacts: [{ outcome: "continued", resumed: tensors.length - 2, damaged: 0 }],
    });
    expect(readFileSync(out).equals(before)).toBe(true);
    // The same again: a complete file is one that can be redone.
    expect(await quantize(nanoCheckpoint, out, "--redo", "FFN_UP")).toMatchObject({ code: 0 });
    expect(readFileSync(out).equals(before)).toBe(true);
  });

  it("works for convert, and in a file that a manifest vouches for", async () => {
    const folder = scratchFolder();
    const out = join(folder, "nano-e-Q8_0.gguf");
    const args = [nanoCheckpoint, "--to", "gguf", "--type", "q8_0", "--out", folder];
    const short = "--chunks 1 --repetitions 1 --prompt 8 --generation 4".split(" ");
    const built = await runCommand(Build, [nanoCheckpoint, "--type", "q8_0", "--out", folder, ...short]);
    expect(built).toMatchObject({ code: 0 });
    const { sha256 } = await hashFile(out, {});
    expect(await runCommand(Convert, args)).toMatchObject({
      code: 0,
      stdout: expect.stringContaining("there already") as unknown,
    });
    const redone = await runCommand(Convert, [...args, "--redo", "ffn_down"]);
    expect(redone.code).toBe(0);
    expect(redone.stderr).toMatch(/continued behind \d+ tensors, 4 done again as asked/);
    expect((await hashFile(out, {})).sha256).toBe(sha256);
  });

  it("refuses what cannot be, with code 2, and touches nothing", async () => {
    const folder = scratchFolder();
    const out = join(folder, "nano.gguf");
    expect(await quantize(nanoCheckpoint, out, "--redo", "ffn_down")).toEqual(
      misuse(/nano\.gguf is not there, nor is an unfinished run into it/),
    );
    cpSync(await convertFixture("Q4_0"), out);
    const before = readFileSync(out);
    expect(await quantize(nanoCheckpoint, out, "--redo", "ffn_sideways")).toEqual(
      misuse(/the pattern "ffn_sideways" .*--redo.* finds none/),
    );
    expect(await quantize(nanoCheckpoint, out, "--redo", "ffn_(down", "--dry-run")).toEqual(
      misuse(/the pattern "ffn_\(down" .*--redo.* is no regular expression/),
    );
    expect(await quantize(nanoCheckpoint, out, "--redo", "ffn", "--embedding-type", "q8_0")).toEqual(
      misuse(/cannot be done again in part .*: it has other types \(token_embd\.weight is Q6_K, not Q8_0/),
    );
    expect(await quantize(nanoCheckpoint, out, "--redo", "ffn", "--keep-unused-kv")).toEqual(
      misuse(/cannot be done again in part .*: it has other tensors \(blk\.\d+\.attn_k/),
    );
    expect(readFileSync(out).equals(before)).toBe(true);
    expect(readdirSync(folder)).toEqual(["nano.gguf"]);
  });
});

describe("an unfinished run is not continued", () => {
  const source = join(scratchFolder(), "source");
  const folder = scratchFolder();
  const out = join(folder, "out.gguf");
  const matrix = join(scratchFolder(), "matrix.gguf");

  const shard = join(source, "model-00002-of-00002.safetensors");
  const again = (...flags: string[]): Promise<CommandRun> =>
    runCommand(Quantize, [source, "--type", "q6_k", "--out", out, "--threads", "1", ...flags]);

  beforeAll(async () => {
    await makeCheckpoint(source, { hidden: 768, text: { intermediate_size: 4096 }, shards: 2 });
    utimesSync(shard, 1e9, 1e9);
    writeImatrix(matrix, new Map([["blk.0.ffn_down.weight", new Float32Array(4096).fill(1)]]));
    await lapidary(["quantize", source, "--type", "q6_k", "--out", out, "--threads", "1"], {
      meanwhile: async (kill) => {
        const journal = (): string => {
          try {
            return readFileSync(`${out}.journal`, "utf8");
          } catch {
            return "";
          }
        };
        while (!journal().includes('"done"')) await new Promise((resolve) => setTimeout(resolve, 5));
        kill("SIGKILL");
      },
    });
  });

  it("but left as it is", () => {
    expect(readdirSync(folder).toSorted()).toEqual(["out.gguf.journal", "out.gguf.lock", "out.gguf.partial"]);
  });

  it.each([
    ["another mix", ["--type", "q8_0"], /it makes Q6_K, this would make Q8_0/],
    [
      "types",
      ["--tensor-type", "ffn_down=q8_0"],
      /it has other types \(blk\.0\.ffn_down\.weight is Q6_K, not Q8_0/,
    ],
    ["tensors", ["--keep-unused-kv"], /it has other tensors \(blk\.\d+\.attn_k/],
    [
      "an importance matrix",
      ["--imatrix", matrix],
      /it goes without an importance matrix, this would take .*matrix\.gguf/,
    ],
  ])("with %s", async (_, flags, words) => {
    const types = flags[0] === "--type" ? [] : ["--type", "q6_k"];
    const run = await runCommand(Quantize, [source, ...types, "--out", out, "--threads", "1", ...flags]);
    expect(run).toEqual(misuse(/^Error: an unfinished run into .*out\.gguf cannot be continued: /m));
    expect(run.stderr).toMatch(words);
    expect(run.stderr).toMatch(/or pass --force to begin anew/);
  });

  it("with an input that has changed, which is named", async () => {
    const bytes = readFileSync(shard);
    utimesSync(shard, 1, 1);
    expect(await again()).toEqual(
      misuse(/: its input .*model-00002-of-00002\.safetensors was changed: it was of .*, now it is of 1970-/),
    );
    // Zeros behind the last tensor are not allowed, so the header grows.
    const header = bytes.subarray(8, 8 + Number(bytes.readBigUInt64LE()));
    const length = Buffer.alloc(8);
    length.writeBigUInt64LE(BigInt(header.length + 8));
    writeFileSync(
      shard,
      Buffer.concat([length, header, Buffer.from(" ".repeat(8)), bytes.subarray(8 + header.length)]),
    );
    expect(await again()).toEqual(
      misuse(new RegExp(`00002\\.safetensors had ${bytes.length} bytes, now it has ${bytes.length + 8}`)),
    );
    writeFileSync(shard, bytes);
    utimesSync(shard, 1e9, 1e9);
  });

  it("with other metadata, which is named", async () => {
    const path = join(source, "generation_config.json");
    const before = readFileSync(path, "utf8");
    writeFileSync(path, before.replace('"top_k":64', '"top_k":32'));
    expect(readFileSync(path, "utf8")).not.toBe(before);
    const run = await again("--redo", "ffn");
    writeFileSync(path, before);
    expect(run).toEqual(misuse(/other metadata \(general\.sampling\.top_k\)/));
  });

  it("unless --force is given: then it begins anew", async () => {
    const run = await quantize(source, out, "--force");
    expect(run.code).toBe(0);
    expect(run.stderr).toMatch(/out\.gguf: written/);
    expect(readdirSync(folder)).toEqual(["out.gguf"]);
  });
});
