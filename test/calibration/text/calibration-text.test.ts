import { mkdir, mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { type CalibrationOptions, calibrationText } from "../../../calibration/text/calibration-text.js";
import { TextError } from "../../../calibration/text/errors.js";
import type { TextPiece } from "../../../calibration/text/modes.js";
import type { CalibrationSource } from "../../../calibration/text/sources.js";

/** One token a word, with the white space behind it. */
const words = new Map<string, number>();
async function tokenize(pieces: readonly TextPiece[]): Promise<Int32Array> {
  const tokens = pieces.flatMap(({ text }) =>
    (text.match(/^\s+|\S+\s*/g) ?? []).map((word) => {
      if (!words.has(word)) words.set(word, words.size + 10);
      return words.get(word) ?? 0;
    }),
  );
  return Int32Array.from(tokens);
}

const bos = 2;
const options: CalibrationOptions = { context: 16, mode: "raw", bos, render: null, tokenize };

let folder: string;
beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), "lapidary-calibration-"));
});
afterAll(async () => {
  await rm(folder, { recursive: true });
});

/** Text of words that occur in no other, ten a line. */
function prose(name: string, count: number): string {
  const lines: string[] = [];
  for (let i = 0; i < count; i += 10) {
    lines.push(Array.from({ length: Math.min(10, count - i) }, (_, j) => `${name}${i + j}x`).join(" "));
  }
  return `${lines.join("\n")}\n`;
}

async function file(name: string, text: string): Promise<string> {
  const path = join(folder, name);
  await writeFile(path, text);
  return path;
}

const source = (path: string, weight = 1): CalibrationSource => ({ path, weight });

async function failure(promise: Promise<unknown>): Promise<TextError> {
  const error: unknown = await promise.then(
    () => null,
    (error: unknown) => error,
  );
  if (error instanceof TextError) return error;
  throw error ?? new Error("nothing was thrown");
}

describe("the windows of a calibration text", () => {
  it("are all of a short text, each with its BOS", async () => {
    const path = await file("short.txt", prose("short", 16 * 20));
    const text = await calibrationText([source(path)], options);
    expect(text.context).toBe(16);
    expect(text.mode).toBe("raw");
    expect(text.windows).toHaveLength(20);
    expect(text.windows.map(({ start }) => start)).toEqual(Array.from({ length: 20 }, (_, i) => 16 * i));
    expect(text.windows.every(({ tokens }) => tokens.length === 16 && tokens[0] === bos)).toBe(true);
    const all = await tokenize([{ file: "", line: 1, text: prose("short", 16 * 20), special: false }]);
    for (const { start, tokens } of text.windows)
      expect(tokens.subarray(1)).toEqual(all.subarray(start, start + 15));
    expect(text.warnings).toEqual([]);
  });

  it("are spread over a text that has more", async () => {
    const path = await file("long.txt", prose("long", 16 * 1000));
    const text = await calibrationText([source(path)], { ...options, windows: 40 });
    expect(text.windows.map(({ start }) => start)).toEqual(Array.from({ length: 40 }, (_, i) => 400 * i));
    expect((await calibrationText([source(path)], options)).windows).toHaveLength(200);
  });

  it("are shared out by weight, and counted", async () => {
    const folderPath = join(folder, "mixed");
    await mkdir(folderPath, { recursive: true });
    await writeFile(join(folderPath, "a.txt"), prose("mixeda", 600));
    await writeFile(
      join(folderPath, "b.jsonl"),
      `${JSON.stringify({ messages: [{ role: "user", content: prose("mixedb", 600) }] })}\n`,
    );
    const one = await file("one.txt", prose("ein", 16 * 100).replaceAll("ein", "один"));
    const text = await calibrationText([source(one, 3), source(folderPath)], { ...options, windows: 80 });
    expect(text.sources).toEqual([
      { name: one, kind: "text", weight: 3, documents: 1, tokens: 1600, windows: 60 },
      { name: folderPath, kind: "mixed", weight: 1, documents: 2, tokens: 1200, windows: 20 },
    ]);
    expect(text.windows).toHaveLength(80);
    // The second stream begins behind the first one and its BOS.
    expect(text.windows[60]?.start).toBe(1601);
    expect(text.scripts).toEqual({ Cyrillic: 4 * 1600, Latin: 1600 + 1200 * 7 });
    expect(text.hash).toMatch(/^[0-9a-f]{64}$/);
    expect(text.warnings).toEqual([]);
    const swapped = await calibrationText([source(folderPath), source(one)], options);
    expect(swapped.hash).not.toBe(text.hash);
  });

  it("come from the other sources when one has too few, which is said", async () => {
    const small = await file("small.txt", prose("small", 16 * 5));
    const tiny = await file("tiny.txt", "a few words");
    const large = await file("large.txt", prose("large", 16 * 300));
    const text = await calibrationText([source(small), source(tiny), source(large)], {
      ...options,
      windows: 100,
    });
    expect(text.sources.map(({ windows }) => windows)).toEqual([5, 0, 95]);
    expect(text.warnings).toEqual([
      expect.stringContaining(`${small} has 5 windows of the 33`),
      expect.stringContaining(`${tiny} has 0 windows of the 33`),
    ]);
  });

  it("are called few when they are", async () => {
    const path = await file("few.txt", prose("few", 16 * 15));
    expect((await calibrationText([source(path)], options)).warnings).toEqual([
      expect.stringContaining("only 15 windows"),
    ]);
    expect((await calibrationText([source(path)], { ...options, windows: 99 })).warnings[0]).toBe(
      "99 windows were asked for, the text has 15.",
    );
  });

  it("go through the chat template where chats are wanted", async () => {
    const path = await file("chat.txt", prose("chat", 2000));
    const text = await calibrationText([source(path)], {
      ...options,
      mode: "chat",
      render: ({ messages }) =>
        `<bos>${messages.map(({ role, content }) => `<${role}> ${content} `).join("")}`,
    });
    const ids = text.windows.flatMap(({ tokens }) => [...tokens]);
    expect(ids).toContain(words.get("<user> "));
    expect(ids).toContain(words.get("<assistant> "));
    expect([...words.keys()].some((word) => word.includes("<bos>"))).toBe(false);
    expect(await failure(calibrationText([source(path)], { ...options, mode: "chat" }))).toMatchObject({
      code: "text-template",
    });
  });

  it("need a text, a window and a number that can be", async () => {
    const path = await file("stub.txt", "a few words");
    const error = await failure(calibrationText([source(path)], options));
    expect(error).toMatchObject({ code: "text-short", exitCode: 2 });
    expect(error.message).toContain("stub.txt: the calibration text has 3 tokens");
    expect(await failure(calibrationText([], options))).toMatchObject({ code: "source-count", exitCode: 2 });
    const many = Array.from({ length: 65 }, () => source(path));
    expect(await failure(calibrationText(many, options))).toMatchObject({ code: "source-count" });
    const missing = source(join(folder, "no.txt"));
    expect(await failure(calibrationText([missing], options))).toMatchObject({
      code: "text-missing",
      exitCode: 2,
    });
    for (const windows of [0, -1, 1.5, Number.NaN])
      expect(await failure(calibrationText([source(path)], { ...options, windows }))).toMatchObject({
        code: "window-count",
      });
    expect(await failure(calibrationText([source(path)], { ...options, context: 3 }))).toMatchObject({
      code: "window-size",
    });
  });

  it("are refused when the texts make too many tokens", async () => {
    const path = await file("huge.txt", "word");
    const huge = { ...options, tokenize: async () => new Int32Array(2 ** 23 + 1) };
    expect(await failure(calibrationText([source(path), source(path)], huge))).toMatchObject({
      code: "text-size",
      exitCode: 2,
    });
  });
});

describe("the evaluation text", () => {
  it("is refused in the calibration text, with the share and both places", async () => {
    const evaluation = await file("evaluation.txt", prose("eval", 2000));
    const lines = prose("eval", 2000).split("\n");
    const mine = prose("mine", 3000).split("\n");
    // 300 of 2000 words, from line 101 of the one on line 52 of the other, not at its start.
    const leak = [...mine.slice(0, 50), "some more words", ...lines.slice(100, 130), ...mine.slice(50)];
    const path = await file("leak.txt", leak.join("\n"));
    const error = await failure(calibrationText([source(path)], { ...options, evaluation }));
    expect(error).toMatchObject({ code: "text-reused", exitCode: 2 });
    // 300 words hold 269 runs of 32; the text 1,969.
    expect(error.message).toContain("13.7 % of the evaluation text");
    expect(error.message).toContain(`${path}, line 52 has 300 tokens of ${evaluation}, line 101.`);
  });

  it("is refused when it is the calibration text, in chats too", async () => {
    const chats = Array.from({ length: 30 }, (_, i) =>
      JSON.stringify({ messages: [{ role: "user", content: prose(`talk${i}n`, 100) }] }),
    );
    const path = await file("chats.jsonl", `${chats.join("\n")}\n`);
    const error = await failure(calibrationText([source(path)], { ...options, evaluation: path }));
    expect(error.message).toContain("100.0 %");
    expect(error.message).toContain(`${path}, line 1 has`);
    const second = await file(
      "other.jsonl",
      `${JSON.stringify({ messages: [{ role: "user", content: prose("mine", 600) }] })}\n${chats[20]}\n`,
    );
    const placed = await failure(calibrationText([source(second)], { ...options, evaluation: path }));
    expect(placed.message).toContain(`${second}, line 2 has`);
    expect(placed.message).toContain(`${path}, line 21.`);
  });

  it("may share a stock phrase", async () => {
    const phrase = prose("licence", 40);
    const evaluation = await file("with.txt", prose("evalb", 4000) + phrase);
    const path = await file("also.txt", phrase + prose("mineb", 3000));
    await expect(calibrationText([source(path)], { ...options, evaluation })).resolves.toMatchObject({
      windows: { length: 190 },
    });
  });

  it("is told apart from a text that is nearly the same, which is a warning with file and line", async () => {
    const paragraph = (name: string): string =>
      `The ${name} carried twelve barrels of herring, four of salt, a crate of lamp glasses and the mail; nobody aboard had slept since the island, and the ${name} leaked.`;
    const evaluation = await file("ships.txt", `${prose("evalc", 3000)}\n\n${paragraph("Marigold")}\n`);
    const changed = paragraph("Marigold").replaceAll(" ", "  ").toUpperCase();
    const path = await file("near.txt", `${prose("minec", 3000)}\n\n${changed}\n\n${paragraph("Heron")}\n`);
    const { warnings } = await calibrationText([source(path)], { ...options, evaluation });
    expect(warnings).toHaveLength(2);
    expect(warnings[0]).toContain("nearly the same as one of the evaluation text");
    expect(warnings[0]).toContain(`${path}, line 303 (${evaluation}, line 303)`);
    expect(warnings[1]).toContain(`${path}, line 305 (${path}, line 303)`);
  });

  it("names ten passages at most", async () => {
    const evaluation = await file("lines.txt", prose("evald", 400));
    const paragraph =
      "Whoever has to wait for the ferry may sit in the shed, provided that he shuts the door behind him and leaves the stove as he found it.\n";
    const repeated = Array.from({ length: 15 }, () => paragraph).join("\n");
    const path = await file("again.txt", repeated);
    const { warnings } = await calibrationText([source(path)], { ...options, evaluation });
    expect(warnings).toHaveLength(1);
    expect(warnings[0]).toMatch(/^14 passages are nearly the same as an earlier one: .*; and 4 more\.$/);
  });
});
