import { mkdir, mkdtemp, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { beforeEach, describe, expect, it } from "vitest";
import { chatRenderer, readChatTemplates } from "../../src/gemma4/chat-template.js";
import { readGeneration } from "../../src/gemma4/generation.js";
import { NANO } from "../support/checkpoints.js";

let folder: string;

beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), "lapidary-"));
});

function write(file: string, content: unknown): Promise<void> {
  return writeFile(join(folder, file), typeof content === "string" ? content : JSON.stringify(content));
}

describe("reading templates", () => {
  it("prefers tokenizer_config.json, then chat_template.jinja, then chat_template.json", async () => {
    expect(await readChatTemplates(folder)).toEqual({ main: null, named: new Map() });
    await write("chat_template.json", { chat_template: "json" });
    expect((await readChatTemplates(folder)).main).toBe("json");
    await write("chat_template.jinja", "jinja");
    await write("tokenizer_config.json", {});
    expect((await readChatTemplates(folder)).main).toBe("jinja");
    await write("tokenizer_config.json", { chat_template: "config" });
    expect((await readChatTemplates(folder)).main).toBe("config");
  });

  it("takes named templates from a list", async () => {
    await write("tokenizer_config.json", {
      chat_template: [
        { name: "default", template: "a" },
        { name: "tool use", template: "b" },
      ],
    });
    expect(await readChatTemplates(folder)).toEqual({ main: "a", named: new Map([["tool_use", "b"]]) });
  });

  it("takes named templates from a folder", async () => {
    await write("chat_template.jinja", "a");
    await mkdir(join(folder, "additional_chat_templates"));
    await write("additional_chat_templates/rag.jinja", "b");
    await write("additional_chat_templates/notes.txt", "c");
    expect(await readChatTemplates(folder)).toEqual({ main: "a", named: new Map([["rag", "b"]]) });
  });

  it.each([7, [{ name: "default" }], ["text"]])("refuses chat_template %j", async (template) => {
    await write("tokenizer_config.json", { chat_template: template });
    await expect(readChatTemplates(folder)).rejects.toMatchObject({ code: "bad-template" });
  });
});

describe("rendering", () => {
  it("writes a conversation with nano-e's template", async () => {
    const { main } = await readChatTemplates(NANO);
    const messages = [
      { role: "user", content: " Hello " },
      { role: "assistant", content: "Hi" },
    ];
    const render = await chatRenderer(main!, { bosToken: "<bos>" });
    expect(render({ messages })).toBe("<bos><|turn>user\nHello<turn|>\n<|turn>model\nHi<turn|>\n");
    const prompt = await chatRenderer(main!, { bosToken: "<bos>", addGenerationPrompt: true });
    expect(prompt({ messages: messages.slice(0, 1) })).toBe("<bos><|turn>user\nHello<turn|>\n<|turn>model\n");
  });

  it("hands tools to the template, and none as absent", async () => {
    const source = "{% if tools %}{{ tools[0]['function']['name'] }}{% else %}none{% endif %}";
    const render = await chatRenderer(source, { bosToken: "" });
    expect(render({ messages: [], tools: [{ function: { name: "search" } }] })).toBe("search");
    expect(render({ messages: [], tools: null })).toBe("none");
  });

  it("reports malformed templates and refusals", async () => {
    await expect(chatRenderer("{% if %}", { bosToken: "" })).rejects.toMatchObject({ code: "bad-template" });
    const render = await chatRenderer("{{ raise_exception('roles must alternate') }}", { bosToken: "" });
    expect(() => render({ messages: [] })).toThrow("roles must alternate");
  });
});

describe("generation_config.json", () => {
  it("is null when there is none", async () => {
    expect(await readGeneration(folder)).toBeNull();
  });

  it("gives sampling in the converter's order, without nulls", async () => {
    await write("generation_config.json", {
      repetition_penalty: 1.1,
      temperature: 1,
      top_p: 0.95,
      top_k: 64,
      min_p: null,
      suppress_tokens: [5, 6],
    });
    expect(await readGeneration(folder)).toEqual({
      sampling: [
        ["general.sampling.top_k", { type: "i32", value: 64 }],
        ["general.sampling.top_p", { type: "f32", value: 0.95 }],
        ["general.sampling.temp", { type: "f32", value: 1 }],
        ["general.sampling.penalty_repeat", { type: "f32", value: 1.1 }],
      ],
      suppressTokens: [5, 6],
    });
  });

  it.each([{ top_k: 1.5 }, { top_p: "much" }, { suppress_tokens: [-1] }, { suppress_tokens: 3 }])(
    "refuses %j",
    async (content) => {
      await write("generation_config.json", content);
      await expect(readGeneration(folder)).rejects.toMatchObject({ code: "bad-config" });
    },
  );
});
