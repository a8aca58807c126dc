import { describe, expect, it } from "vitest";
import { findSpecialTokens } from "../../src/gemma4/tokenizer/special-tokens.js";

function token(id: string) {
  return { SpecialToken: { id, type_id: 0 } };
}

function sequence(id: string) {
  return { Sequence: { id, type_id: 0 } };
}

function template(single: unknown[], pair: unknown[] = []) {
  return { type: "TemplateProcessing", single, pair };
}

describe("special tokens", () => {
  const added = ["<pad>", "<eos>", "<bos>", "<unk>", "<sep>", "<turn|>"].map((content, id) => ({
    id,
    content,
    special: true,
  }));
  const config = { bos_token: "<bos>", eos_token: "<eos>", pad_token: { content: "<pad>" }, unk_token: null };

  it("come from tokenizer_config.json, then from config.json", () => {
    const { ids, added: adds } = findSpecialTokens(null, added, config, { eos: 5, unk: 3, mask: 4 });
    expect([...ids]).toEqual([
      ["bos", 2],
      ["eos", 1],
      ["pad", 0],
      ["unk", 3],
      ["mask", 4],
    ]);
    expect(adds.size).toBe(0);
  });

  it("come from config.json alone when there is no tokenizer_config.json", () => {
    expect([...findSpecialTokens(null, added, undefined, { bos: 2, eos: 1 }).ids]).toEqual([
      ["bos", 2],
      ["eos", 1],
    ]);
  });

  it("are added as the template says", () => {
    const single = [token("<bos>"), sequence("A")];
    const pair = [token("<bos>"), sequence("A"), token("<bos>"), sequence("B")];
    const { added: adds } = findSpecialTokens(template(single, pair), added, config, {});
    expect([...adds]).toEqual([
      ["bos", true],
      ["sep", false],
    ]);
  });

  it("are looked for inside a sequence of post-processors", () => {
    const processor = {
      type: "Sequence",
      processors: [{ type: "ByteLevel" }, template([token("<bos>"), sequence("A")])],
    };
    expect([...findSpecialTokens(processor, added, config, {}).added]).toEqual([["bos", true]]);
  });

  it("are not added when the template begins with another one", () => {
    const { added: adds } = findSpecialTokens(
      template([token("<unk>"), sequence("A")]),
      added,
      { ...config, cls_token: "<pad>" },
      {},
    );
    expect([...adds]).toEqual([["bos", false]]);
  });

  it("take the template's end for the end of text and the other for the end of a turn", () => {
    const ends = template([token("<bos>"), sequence("A"), token("<turn|>")]);
    const { ids, added: adds } = findSpecialTokens(ends, added, config, {});
    expect([...ids]).toEqual([
      ["bos", 2],
      ["eos", 5],
      ["pad", 0],
      ["eot", 1],
    ]);
    expect([...adds]).toEqual([
      ["bos", true],
      ["eos", true],
    ]);
  });

  it("separate pairs when the template does", () => {
    const pair = [sequence("A"), token("<eos>"), sequence("B")];
    const { ids, added: adds } = findSpecialTokens(template([sequence("A")], pair), added, config, {});
    expect([...adds]).toEqual([["sep", true]]);
    expect(ids.get("sep")).toBe(1);
  });

  it("obey flags in tokenizer_config.json", () => {
    const flags = { ...config, add_bos_token: false, add_eos_token: true };
    const { added: adds } = findSpecialTokens(template([token("<bos>"), sequence("A")]), added, flags, {});
    expect([...adds]).toEqual([
      ["bos", false],
      ["eos", true],
    ]);
  });
});
