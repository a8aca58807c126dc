import { mkdtemp, readFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { assert, boolean, integer, json as anyJson, nat, property, string, uniqueArray } from "fast-check";
import { describe, expect, it } from "vitest";
import { parseConfig, readConfig } from "../../src/gemma4/config.js";
import { JsonScanner } from "../../src/gemma4/tokenizer/scan-json.js";
import { parseTokenizer, readTokenizer, type Tokenizer } from "../../src/gemma4/tokenizer/tokenizer.js";
import type { Gemma4Config } from "../../src/gemma4/types.js";
import { NANO } from "../support/checkpoints.js";
import { memberConfig } from "../support/members.js";

interface AddedJson {
  id: number;
  content: string;
  special: boolean;
}

interface TokenizerJson {
  [field: string]: unknown;
  added_tokens: AddedJson[];
  normalizer: unknown;
  decoder: { type: string };
  model: { [field: string]: unknown; type: string; vocab: Record<string, number>; merges: unknown[] };
}

/** A small tokenizer.json: six tokens, two merges. */
function smallJson(): TokenizerJson {
  return {
    version: "1.0",
    truncation: null,
    added_tokens: [
      { id: 0, content: "<pad>", special: true },
      { id: 1, content: "<eos>", special: true },
      { id: 2, content: "<bos>", special: true },
    ],
    normalizer: { type: "Replace", pattern: { String: " " }, content: "▁" },
    post_processor: null,
    decoder: { type: "Sequence" },
    model: {
      type: "BPE",
      byte_fallback: true,
      ignore_merges: false,
      vocab: { "<pad>": 0, "<eos>": 1, "<bos>": 2, a: 3, "▁": 4, "▁a": 5 },
      merges: [
        ["▁", "a"],
        ["a", "▁a"],
      ],
    },
  };
}

function configFor(vocabulary: number): Gemma4Config {
  return parseConfig(
    {
      ...memberConfig("31B", { vocab_size: vocabulary }),
      image_token_id: null,
      audio_token_id: null,
      video_token_id: null,
      boi_token_id: null,
      eoi_token_id: null,
      boa_token_id: null,
      eoa_token_index: null,
    },
    "config.json",
  );
}

function parse(source: unknown, vocabulary = 6): Tokenizer {
  const text = typeof source === "string" ? source : JSON.stringify(source);
  return parseTokenizer(Buffer.from(text), "tokenizer.json", configFor(vocabulary), undefined);
}

/** The small tokenizer with one change. */
function edited(edit: (json: TokenizerJson) => void): TokenizerJson {
  const json = smallJson();
  edit(json);
  return json;
}

/** Everything but ASCII as UTF-16 escapes. */
function asPythonWrites(json: string): string {
  return json.replaceAll(
    /[\u0080-\uFFFF]/g,
    (unit) => `\\u${unit.charCodeAt(0).toString(16).padStart(4, "0")}`,
  );
}

/** Code of the error that the bytes lead to; undefined when there is none. */
function errorCode(bytes: Buffer): unknown {
  try {
    parseTokenizer(bytes, "tokenizer.json", configFor(6), undefined);
    return undefined;
  } catch (error) {
    return (error as { code?: unknown }).code ?? error;
  }
}

describe("lists", () => {
  it("come out by id and by rank", () => {
    const { tokens, types, merges, special } = parse(smallJson());
    expect([...tokens]).toEqual(["<pad>", "<eos>", "<bos>", "a", "▁", "▁a"]);
    expect([...types]).toEqual([3, 3, 3, 1, 1, 1]);
    expect([...merges]).toEqual(["▁ a", "a ▁a"]);
    expect([...special.ids]).toEqual([
      ["bos", 2],
      ["pad", 0],
    ]);
  });

  it("agree with JSON.parse on nano-e", async () => {
    const json = JSON.parse(await readFile(join(NANO, "tokenizer.json"), "utf8")) as TokenizerJson;
    const { tokens, merges } = await readTokenizer(NANO, await readConfig(NANO));
    const byId = Object.entries(json.model.vocab).toSorted(([, a], [, b]) => a - b);
    expect([...tokens]).toEqual(byId.map(([text]) => text));
    expect([...merges]).toEqual((json.model.merges as string[][]).map((pair) => pair.join(" ")));
  });

  it("take ids in any order, indented JSON and escapes of every kind", () => {
    const vocab = { "\u2581a": 5, 'q"\\\n\u0000': 3, "<bos>": 2, "<eos>": 1, "😀": 4, "<pad>": 0 };
    const json = edited(({ model }) =>
      Object.assign(model, {
        vocab,
        merges: [
          ['q"', "\\"],
          ["😀", "▁"],
        ],
      }),
    );
    for (const text of [
      JSON.stringify(json),
      JSON.stringify(json, null, "\t"),
      asPythonWrites(JSON.stringify(json, null, 2)),
    ]) {
      const { tokens, merges } = parse(text);
      expect([...tokens]).toEqual(["<pad>", "<eos>", "<bos>", 'q"\\\n\0', "😀", "▁a"]);
      expect([...merges]).toEqual(['q" \\', "😀 ▁"]);
    }
  });

  it("take merges as texts too", () => {
    const text = parse(edited(({ model }) => (model.merges = ["▁ a", "a ▁a"])));
    expect([...text.merges]).toEqual([...parse(smallJson()).merges]);
  });

  it("write a space inside half a merge as U+0120", () => {
    expect([...parse(edited(({ model }) => (model.merges = [["a b", "c"]]))).merges]).toEqual(["aĠb c"]);
    expect([...parse(edited(({ model }) => (model.merges = []))).merges]).toEqual([]);
  });

  it("hold added tokens beyond the model's vocabulary", () => {
    const json = edited(({ added_tokens: added }) => {
      added.push({ id: 7, content: "<tool>", special: true }, { id: 6, content: "<html>", special: false });
    });
    const { tokens, types } = parse(json, 8);
    expect([...tokens].slice(6)).toEqual(["<html>", "<tool>"]);
    expect([...types].slice(6)).toEqual([4, 3]);
  });

  it("type byte tokens, and show tokens of tool calls", () => {
    const json = edited(({ model, added_tokens: added }) => {
      model.vocab = { "<pad>": 0, "<eos>": 1, "<bos>": 2, "<0xFf>": 3, "<|tool_call>": 4, "<0x100>": 5 };
      added.push({ id: 4, content: "<|tool_call>", special: true });
    });
    expect([...parse(json).types]).toEqual([3, 3, 3, 6, 4, 1]);
  });

  it("agree with JSON.parse on any vocabulary", () => {
    const text = string({ unit: "grapheme", minLength: 1, maxLength: 12 });
    assert(
      property(uniqueArray(text, { minLength: 3, maxLength: 30 }), boolean(), (texts, indent) => {
        const json = edited(({ model }) => {
          // A null prototype: "__proto__" is a token like any other.
          model.vocab = Object.assign(Object.create(null) as Record<string, number>, {});
          for (const [id, token] of texts.entries()) model.vocab[token] = id;
          model.merges = texts.map((token) => [token, "a"]);
        });
        json.added_tokens = [];
        const { tokens, merges } = parse(JSON.stringify(json, null, indent ? 1 : 0), texts.length);
        expect([...tokens]).toEqual(texts);
        expect([...merges]).toEqual(texts.map((token) => `${token.replaceAll(" ", "Ġ")} a`));
      }),
      { numRuns: 200, seed: 4 },
    );
  });
});

describe("errors", () => {
  it.each<[string, (json: TokenizerJson) => void, string]>([
    [
      "an id without a token",
      ({ model }) => delete model.vocab["a"],
      "no token with id 3 (1 of 6 are missing)",
    ],
    ["a token with a second id", ({ model }) => (model.vocab["b"] = 3), 'gives id 3 to a second token "b"'],
    ["an id beyond the embedding", ({ model }) => (model.vocab["b"] = 6), "id 6; expected ids below 6"],
    ["a negative id", ({ model }) => (model.vocab["b"] = -1), "a whole number from 0"],
    ["a fractional id", ({ model }) => (model.vocab["b"] = 1.5), "a whole number from 0"],
    [
      "an added token that differs",
      ({ added_tokens: [pad] }) => (pad!.content = "x"),
      'id 0 is "<pad>" in the vocabulary but "x"',
    ],
    ["an added token given twice", ({ added_tokens: added }) => added.push(added[0]!), "id 0 twice"],
    [
      "an added token without id",
      ({ added_tokens: [pad] }) => (pad!.id = -1),
      "expected id, content and special",
    ],
    ["added tokens of no list", (json) => Object.assign(json, { added_tokens: {} }), "added_tokens is {}"],
    ["a merge of three", ({ model }) => model.merges.push(["a", "b", "c"]), "a merge of two tokens"],
    ["a merge of one", ({ model }) => model.merges.push(["a"]), "a merge of two tokens"],
    ["merges of both forms", ({ model }) => model.merges.push("a b"), "expected a list"],
    ["a merge text without space", ({ model }) => (model.merges = ["ab"]), "one space between them"],
    ["a merge text with two spaces", ({ model }) => (model.merges = ["a b c"]), "one space between them"],
    [
      "a merge text that starts with a space",
      ({ model }) => (model.merges = [" a"]),
      "one space between them",
    ],
    ["no merges", ({ model }) => Object.assign(model, { merges: undefined }), "model.merges is missing"],
    ["no vocabulary", ({ model }) => Object.assign(model, { vocab: undefined }), "model.vocab is missing"],
    ["a Unigram model", ({ model }) => (model.type = "Unigram"), 'model.type is "Unigram"; expected "BPE"'],
    ["no byte fallback", ({ model }) => (model["byte_fallback"] = false), "model.byte_fallback is false"],
    ["merges ignored", ({ model }) => (model["ignore_merges"] = true), "model.ignore_merges is true"],
    ["a byte-level decoder", (json) => (json.decoder.type = "ByteLevel"), 'decoder.type is "ByteLevel"'],
    ["another normalizer", (json) => (json.normalizer = { type: "NFKC" }), 'normalizer is {"type":"NFKC"}'],
    ["no normalizer", (json) => (json.normalizer = null), "normalizer is null"],
    ["half a surrogate pair", ({ model }) => (model.vocab["\uD800"] = 6), "half of a surrogate pair"],
  ])("names %s", (_, edit, message) => {
    expect(() => parse(edited(edit))).toThrow(message);
  });

  it("names a token that has two ids", () => {
    const text = JSON.stringify(smallJson()).replace('"▁a":5', '"a":5');
    expect(() => parse(text)).toThrow('has the token "a" twice, with the ids 3 and 5');
  });

  it.each([
    ["model", '{"model":{"vocab":{},"merges":[]},"model":{}}'],
    ["vocab", '{"model":{"vocab":{},"vocab":{}}}'],
    ["merges", '{"model":{"merges":[],"merges":[]}}'],
    ["normalizer", '{"normalizer":null,"normalizer":null}'],
  ])("refuses a second %s", (field, text) => {
    expect(() => parse(text)).toThrow(`${field} only once`);
  });

  it.each([0, 1, 50, 200, 400, -1])("refuses the file cut off at byte %i", (end) => {
    expect(() => parse(JSON.stringify(smallJson()).slice(0, end))).toThrow(/^tokenizer\.json .*; expected /);
  });

  it.each([
    ["text behind", `${JSON.stringify(smallJson())}x`],
    ["a list", "[]"],
    ["a comma too many", JSON.stringify(smallJson()).replace('"▁a":5', '"▁a":5,')],
    ["an escape that is none", JSON.stringify(smallJson()).replace('"▁a":5', '"\\x":5')],
    ["a control character", JSON.stringify(smallJson()).replace('"▁a":5', '"\n":5')],
    ["a literal that is none", JSON.stringify(smallJson()).replace("null", "nul")],
    ["a deep value", JSON.stringify(smallJson()).replace("null", "[".repeat(65) + "]".repeat(65))],
  ])("refuses %s", (_, text) => {
    expect(() => parse(text)).toThrow(expect.objectContaining({ code: "bad-json" }));
  });

  it("refuses bytes that are not UTF-8", () => {
    const bytes = Buffer.from(JSON.stringify(smallJson()).replace('"▁a":5', '"?":5'));
    bytes[bytes.indexOf("?")] = 0xff;
    expect(() => parseTokenizer(bytes, "tokenizer.json", configFor(6), undefined)).toThrow("not valid UTF-8");
  });

  it("never hangs on or crashes from damaged bytes", () => {
    const good = Buffer.from(JSON.stringify(smallJson()));
    assert(
      property(nat(good.length - 1), integer({ min: 0, max: 127 }), (at, byte) => {
        const bytes = Buffer.from(good);
        bytes[at] = byte;
        expect(errorCode(bytes) ?? "bad-nothing").toMatch(/^(bad|other|vocabulary|gguf)-/);
      }),
      { numRuns: 500, seed: 5 },
    );
  });

  it("calls a folder without tokenizer.json misuse", async () => {
    const folder = await mkdtemp(join(tmpdir(), "lapidary-"));
    await expect(readTokenizer(folder, configFor(6))).rejects.toMatchObject({
      code: "no-tokenizer",
      exitCode: 2,
    });
  });
});

describe("scanner", () => {
  it("reads any value as JSON.parse does", () => {
    assert(
      property(anyJson({ maxDepth: 5 }), (text) => {
        const scanner = new JsonScanner(Buffer.from(` ${text}\n`), "file.json");
        expect(scanner.value()).toEqual(JSON.parse(text));
        scanner.finish();
      }),
      { numRuns: 300, seed: 6 },
    );
  });
});

describe("the real size", () => {
  it("holds 262,144 tokens and 514,906 merges in flat lists", () => {
    const count = 262_144;
    const merges = 514_906;
    const vocab = Array.from({ length: count }, (_, id) => `"${id % 3 === 0 ? "▁" : ""}token${id}":${id}`);
    const pairs = Array.from({ length: merges }, (_, rank) => `["token${rank % 997}","${rank}"]`);
    const head = '{"added_tokens":[],"normalizer":{"type":"Replace","pattern":{"String":" "},"content":"▁"},';
    const model = `"model":{"type":"BPE","byte_fallback":true,"vocab":{${vocab.join(",")}},"merges":[${pairs.join(",")}]}}`;
    const bytes = Buffer.from(`${head}"decoder":{"type":"Sequence"},${model}`);
    const tokenizer = parseTokenizer(bytes, "tokenizer.json", configFor(count), undefined);
    expect(tokenizer.tokens).toHaveLength(count);
    expect(tokenizer.tokens.at(count - 1)).toBe("▁token262143");
    expect(tokenizer.merges).toHaveLength(merges);
    expect(tokenizer.merges.at(merges - 1)).toBe(`token${(merges - 1) % 997} ${merges - 1}`);
  });
});
