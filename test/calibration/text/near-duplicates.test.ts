import { describe, expect, it } from "vitest";
import type { Document } from "../../../calibration/text/documents.js";
import { PassageIndex } from "../../../calibration/text/near-duplicates.js";

const plain = (text: string, file = "a.txt"): Document => ({ kind: "text", file, text });
const chat = (line: number, ...contents: string[]): Document => ({
  kind: "chat",
  file: "c.jsonl",
  line,
  tools: null,
  messages: contents.map((content) => ({ role: "user", content })),
});

const first =
  "The keeper of the mill had three sons, of whom the eldest was to have the mill, the second the donkey, and the youngest nothing but the cat that slept upon the flour sacks in winter.";
const second =
  "On the other side of the river there lived a widow who sold candles; she had counted 1,250 of them in a single year, and not one of them had ever been returned to her by a customer.";

describe("PassageIndex", () => {
  it("knows a passage again under another layout, case and other numbers", () => {
    const index = new PassageIndex();
    expect(index.add(plain(`Title\n\n${first}\n\n${second}\n`), "a.txt")).toEqual([]);
    const other = second.toUpperCase().replace("1,250", "2,731").replaceAll(" ", "\n  ");
    expect(index.compare(plain(`x\n\n\n${other}\n`), "b.txt")).toEqual([
      { place: { file: "b.txt", line: 4 }, of: { file: "a.txt", line: 5 } },
    ]);
  });

  it("knows it again when a few words differ, and not when half of it does", () => {
    const index = new PassageIndex();
    index.add(plain(first), "a.txt");
    expect(index.compare(plain(first.replace("donkey", "mule")), "b.txt")).toHaveLength(1);
    const half = first.slice(0, 60) + second.slice(60);
    expect(index.compare(plain(half), "b.txt")).toEqual([]);
  });

  it("takes a passage in once, and names the later ones", () => {
    const index = new PassageIndex();
    const text = `${first}\n\n${second}\n\n${first}\n`;
    expect(index.add(plain(text), "a.txt")).toEqual([
      { place: { file: "a.txt", line: 5 }, of: { file: "a.txt", line: 1 } },
    ]);
    expect(index.add(chat(7, "Hello", second), "c.jsonl")).toEqual([
      { place: { file: "c.jsonl", line: 7 }, of: { file: "a.txt", line: 3 } },
    ]);
  });

  it("lets a chat quote itself, and not another", () => {
    const index = new PassageIndex();
    expect(index.add(chat(1, first, first), "c.jsonl")).toEqual([]);
    expect(index.add(chat(2, second, first), "c.jsonl")).toEqual([
      { place: { file: "c.jsonl", line: 2 }, of: { file: "c.jsonl", line: 1 } },
    ]);
  });

  it("does not compare what is too short to say anything", () => {
    const index = new PassageIndex();
    index.add(plain("Yours sincerely,\n\n}\n\nimport os\n"), "a.txt");
    expect(index.compare(plain("Yours sincerely,\n\n}\n\nimport os\n"), "b.txt")).toEqual([]);
  });

  it("finds a passage within one line as long as a file", () => {
    const filler = (seed: number): string =>
      Array.from({ length: 2000 }, (_, i) =>
        ((i + 1) * 7919 * seed).toString(36).replaceAll(/\d/g, "q"),
      ).join(" ");
    const shared = filler(3).slice(0, 5000);
    const index = new PassageIndex();
    index.add(plain(filler(5) + shared), "a.txt");
    const found = index.compare(plain(shared + filler(11)), "b.txt");
    expect(found.length).toBeGreaterThanOrEqual(2);
    expect(found.every(({ place }) => place.line === 1)).toBe(true);
    expect(index.compare(plain(filler(13)), "b.txt")).toEqual([]);
  });
});
