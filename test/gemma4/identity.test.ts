import { describe, expect, it } from "vitest";
import { GgufEntries } from "../../src/gemma4/gguf/entries.js";
import { type IdentitySource, writeIdentity } from "../../src/gemma4/gguf/identity.js";
import { parseModelId, titleOf } from "../../src/gemma4/gguf/model-id.js";
import { isInstructionTuned, isInstructionTunedGguf } from "../../src/gemma4/instruction-tuned.js";
import { parseModelCard } from "../../src/gemma4/model-card.js";

function identity(source: Partial<IdentitySource>): [string, unknown][] {
  const entries = new GgufEntries();
  const whole = { folderName: "folder", nameOrPath: null, card: new Map(), totalParameters: 31e9, ...source };
  writeIdentity(entries, whole, "31B");
  return entries.list.map(([key, value]) => [
    key.replace("general.", ""),
    value.type === "array" && value.of === "string" ? [...value.value] : value.value,
  ]);
}

describe("model ids", () => {
  // Expected values are what llama.cpp's converter makes of these names (several are in its own tests).
  it.each([
    ["Mixtral-8x7B-Instruct-v0.1", 0, "Mixtral", "Instruct", "v0.1", "8x7B"],
    ["NousResearch/Meta-Llama-3-8B", 0, "Meta-Llama-3", null, null, "8B"],
    ["chargoddard/mistral-11b-slimorca", 0, "mistral", "slimorca", null, "11B"],
    ["bigscience/bloom-7b1-petals", 0, "bloom", "petals", null, "7.1B"],
    ["Qwen/Qwen2-57B-A14B-Instruct", 0, "Qwen2", "Instruct", null, "57B-A14B"],
    ["google/gemma-4-31B-it", 31e9, "gemma-4", "it", null, "31B"],
    ["google/gemma-4-26B-A4B-it", 25.2e9, "gemma-4", "it", null, "26B-A4B"],
    [
      "MaziyarPanahi/GreenNode-mini-7B-multilingual-v1olet-Mistral-7B-Instruct-v0.1",
      0,
      "GreenNode-mini",
      "multilingual-v1olet-Mistral-Instruct",
      "v0.1",
      "7B",
    ],
    ["nvidia/Mistral-Nemo-128k", 12e9, "Mistral-Nemo", "128k", null, null],
  ] as const)("%s", (id, total, basename, finetune, version, sizeLabel) => {
    expect(parseModelId(id, total)).toMatchObject({ basename, finetune, version, sizeLabel });
  });

  it("say nothing when too little of them is known", () => {
    expect(parseModelId("google/gemma-4-E2B-it", 4.6e9)).toEqual({
      name: "gemma-4-E2B-it",
      organization: "google",
      basename: null,
      finetune: null,
      version: null,
      sizeLabel: null,
    });
    expect(parseModelId("./model", 0).organization).toBeNull();
    expect(parseModelId("A name in words", 0)).toMatchObject({ name: "A name in words", basename: null });
  });

  it.each([
    ["gemma-4-E2B-it", "Gemma 4 E2B It"],
    ["nano-e", "Nano E"],
    ["mixtral-8x7b-v0.1", "Mixtral 8x7b v0.1"],
    ["  HTML  and-html5lib ", "HTML And Html5Lib"],
  ])("%s becomes the title %s", (id, title) => {
    expect(titleOf(id)).toBe(title);
  });
});

describe("model cards", () => {
  const card = parseModelCard(
    [
      "---",
      "# a comment",
      "license: apache-2.0 # why not",
      'license_name: "Gemma \\u0022terms\\u0022"',
      "license_link: https://ai.google.dev/gemma/docs",
      "base_model: google/gemma-4-31B",
      "pipeline_tag: image-text-to-text",
      "tags:",
      "- gemma",
      "  # between",
      "- 'don''t'",
      'language: [en, "de",',
      "  no]",
      "description: >-",
      "  Two lines",
      "  of text.",
      "datasets:",
      "  - org/some-set",
      "  - name: nested",
      "    value: 1",
      "model-index:",
      "  - name: x",
      "author: ~",
      "---",
      "# Title",
      "name: not in the front matter",
    ].join("\n"),
  );

  it("give texts and lists, and leave out the rest", () => {
    expect(Object.fromEntries(card)).toEqual({
      license: "apache-2.0",
      license_name: 'Gemma "terms"',
      license_link: "https://ai.google.dev/gemma/docs",
      base_model: "google/gemma-4-31B",
      pipeline_tag: "image-text-to-text",
      tags: ["gemma", "don't"],
      language: ["en", "de", "no"],
      description: "Two lines of text.",
      datasets: ["org/some-set"],
      "model-index": [],
    });
  });

  it("become metadata in the converter's order", () => {
    expect(identity({ card, folderName: "gemma-4-31B-it" })).toEqual([
      ["name", "Gemma 4 31B It"],
      ["finetune", "it"],
      ["basename", "gemma-4"],
      ["description", "Two lines of text."],
      ["size_label", "31B"],
      ["license", "apache-2.0"],
      ["license.name", 'Gemma "terms"'],
      ["license.link", "https://ai.google.dev/gemma/docs"],
      ["base_model.count", 1],
      ["base_model.0.name", "Gemma 4 31B"],
      ["base_model.0.organization", "Google"],
      ["base_model.0.repo_url", "https://huggingface.co/google/gemma-4-31B"],
      ["dataset.count", 1],
      ["dataset.0.name", "Some Set"],
      ["dataset.0.organization", "Org"],
      ["dataset.0.repo_url", "https://huggingface.co/org/some-set"],
      ["tags", ["gemma", "don't", "image-text-to-text"]],
      ["languages", ["en", "de", "no"]],
    ]);
  });

  it("go before names, and a given name before all", () => {
    const named = new Map([
      ["name", "From the card"],
      ["model_author", "Somebody"],
    ]);
    expect(identity({ card: named, nameOrPath: "org/gemma-4-31B-it" })).toEqual([
      ["name", "From the card"],
      ["author", "Somebody"],
      ["organization", "Org"],
      ["finetune", "it"],
      ["basename", "gemma-4"],
      ["size_label", "31B"],
    ]);
    expect(identity({ card: named, name: "Given" })[0]).toEqual(["name", "Given"]);
  });

  it("take several licenses and addresses as base models", () => {
    const card = new Map([
      ["license", ["mit", "apache-2.0"]],
      ["base_model", ["https://huggingface.co/google/gemma-4-31B", "https://example.org/model"]],
    ]);
    const entries = Object.fromEntries(identity({ card }));
    expect(entries).toMatchObject({
      license: "mit,apache-2.0",
      "base_model.count": 2,
      "base_model.0.name": "Gemma 4 31B",
      "base_model.0.repo_url": "https://huggingface.co/google/gemma-4-31B",
      "base_model.1.repo_url": "https://example.org/model",
    });
    expect(entries).not.toHaveProperty(["base_model.1.name"]);
  });

  it.each(["", "# no front matter", "--\nlicense: mit"])("are empty without front matter: %j", (text) => {
    expect(parseModelCard(text).size).toBe(0);
  });

  it("are read to the end when the front matter is not closed", () => {
    expect(parseModelCard("---\r\nlicense: mit").get("license")).toBe("mit");
  });
});

describe("instruction tuned", () => {
  it.each([
    "gemma-4-31B-it",
    "Gemma 4 E2B It",
    "gemma-4-E2B-it-qat-q4_0-unquantized",
    "it",
    "gemma_instruct",
  ])("%s is", (name) => {
    expect(isInstructionTuned([null, name])).toBe(true);
  });

  it.each(["nano-e", "gemma-4-31B", "gemma-4-E2B", "item-4", "gemma-digit"])("%s is not", (name) => {
    expect(isInstructionTuned([name, undefined])).toBe(false);
  });

  it("is read from a file's finetune or name", () => {
    expect(isInstructionTunedGguf(new Map([["general.finetune", { type: "string", value: "it" }]]))).toBe(
      true,
    );
    expect(
      isInstructionTunedGguf(new Map([["general.name", { type: "string", value: "Gemma 4 E2B It" }]])),
    ).toBe(true);
    expect(isInstructionTunedGguf(new Map([["general.name", { type: "string", value: "Nano E" }]]))).toBe(
      false,
    );
  });
});
