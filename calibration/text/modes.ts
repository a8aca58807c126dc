import type { ChatDocument, Document } from "./documents.js";
import { TextError } from "./errors.js";

/** How a text is shown to the model: as it stands, or as conversations in the model's own format. */
export type TextMode = "raw" | "chat" | "auto";

/** A stretch of text to tokenize; the token streams of all pieces, one after the other, are the text. */
export interface TextPiece {
  /** Base name of the file it comes from. */
  readonly file: string;
  /** Line of the file that it begins on, from 1. */
  readonly line: number;
  readonly text: string;
  /** Whether names of control tokens in the text stand for these tokens. */
  readonly special: boolean;
}

/** Renders one conversation through the model's chat template. */
export type RenderChat = (chat: Pick<ChatDocument, "messages" | "tools">) => string;

/** Characters of one wrapped passage, about 500 tokens: a window holds at most a turn or two. */
const passageLength = 2000;
/** Characters of a passage that the user's turn quotes; the model's turn is the rest. */
const openingLength = 500;
const request = "Continue this text:\n\n";

/**
 * `auto` means chat for an instruction-tuned model and raw for any other: raw text is so far from what an
 * instruction-tuned Gemma was trained on that its perplexity orders nothing.
 */
export function resolveMode(mode: TextMode, instructionTuned: boolean): "raw" | "chat" {
  if (mode !== "auto") return mode;
  return instructionTuned ? "chat" : "raw";
}

/** Where to end a stretch of at most `length` characters from `start`: after a line, else a word, never inside a character. */
function breakPoint(text: string, start: number, length: number): number {
  const limit = start + length;
  if (limit >= text.length) return text.length;
  const earliest = start + Math.floor(length / 2);
  for (const mark of ["\n", " "]) {
    const at = text.lastIndexOf(mark, limit - 1);
    if (at >= earliest) return at + 1;
  }
  const unit = text.charCodeAt(limit);
  return unit >= 0xdc00 && unit <= 0xdfff ? limit - 1 : limit;
}

/** Conversations, and the line of the file that each begins on. */
type PlacedChat = Pick<ChatDocument, "messages" | "tools" | "line">;

function lineEnds(text: string, start: number, end: number): number {
  let count = 0;
  for (let at = text.indexOf("\n", start); at !== -1 && at < end; at = text.indexOf("\n", at + 1)) count++;
  return count;
}

/** Plain text as conversations: the user quotes the start of a passage, the model goes on with the rest. */
function wrapText(text: string): PlacedChat[] {
  const chats: PlacedChat[] = [];
  let line = 1;
  for (let start = 0; start < text.length;) {
    const end = breakPoint(text, start, passageLength);
    const middle = breakPoint(text, start, Math.min(openingLength, Math.ceil((end - start) / 4)));
    const opening = text.slice(start, middle).trim();
    const rest = text.slice(middle, end).trim();
    if (opening !== "" && rest !== "") {
      chats.push({
        messages: [
          { role: "user", content: request + opening },
          { role: "assistant", content: rest },
        ],
        tools: null,
        line,
      });
    }
    line += lineEnds(text, start, end);
    start = end;
  }
  return chats;
}

/** A document without the model's format: of a chat, the contents of its messages, a blank line between two. */
export function rawText(document: Document): string {
  return document.kind === "text"
    ? document.text
    : document.messages
        .map((message) => message.content)
        .filter((content) => content !== "")
        .join("\n\n");
}

/**
 * Turns documents into the pieces of text that are tokenized.
 *
 * Raw: every document as it stands (of a chat, the contents of its messages), a blank line between two of
 * them; one line end at the very end is dropped, as llama.cpp's tools do when they read a file. Chat: every
 * conversation through `render`; the BOS that a template writes is taken off, because windows get theirs
 * when they are cut; plain text is wrapped into conversations first.
 *
 * @param bos text of the BOS token, such as `<bos>`
 * @param render needed for `chat` only
 * @throws TextError `text-template` when the mode is chat and the model has no template
 */
export function textPieces(
  documents: readonly Document[],
  mode: "raw" | "chat",
  options: { readonly bos?: string; readonly render?: RenderChat | null } = {},
): TextPiece[] {
  if (mode === "raw") {
    return documents.map((document, index) => {
      const text = rawText(document);
      const last = index === documents.length - 1;
      return {
        file: document.file,
        line: document.kind === "chat" ? document.line : 1,
        text: last ? text.replace(/\n$/, "") : text + (text.endsWith("\n") ? "\n" : "\n\n"),
        special: false,
      };
    });
  }
  const { bos = "<bos>", render } = options;
  if (!render) {
    throw new TextError(
      "text-template",
      "The model has no chat template, so text cannot be shown as chats.",
      {
        exitCode: 2,
        advice: "Use --text-mode raw.",
      },
    );
  }
  return documents.flatMap((document) =>
    (document.kind === "chat" ? [document] : wrapText(document.text)).map((chat) => {
      const text = render(chat);
      return {
        file: document.file,
        line: chat.line,
        text: bos !== "" && text.startsWith(bos) ? text.slice(bos.length) : text,
        special: true,
      };
    }),
  );
}
