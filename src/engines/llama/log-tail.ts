/** First character of lines that are signals and not log: ASCII's record separator. */
export const MARK = "\u001e";

/** Lines kept, so that a chatty model load cannot fill the parent's memory. */
const MAX_LINES = 200;

/** Characters kept of a line. Real: lists of a few hundred characters. */
const MAX_LINE = 500;

const TELLING =
  /error|fail|invalid|unknown|unsupported|unable|cannot|could not|not found|missing|abort|assert|exceed/i;

/** Says nothing that our own message does not say, or only lists what is in the file. */
const IDLE = /^failed to load model$|^- (?:kv|type) /i;

/** The last lines of what a process wrote, numbered from its start. */
export class LogTail {
  #lines: { readonly number: number; readonly text: string }[] = [];
  #count = 0;
  #rest = "";
  /** Marks that were read before anyone waited for them. */
  readonly #marks = new Set<string>();
  readonly #waiting = new Map<string, () => void>();

  /** Number of lines seen so far. */
  get count(): number {
    return this.#count;
  }

  push(chunk: string): void {
    const lines = (this.#rest + chunk).split(/\r?\n/);
    this.#rest = (lines.pop() ?? "").slice(-64 * 1024);
    for (const line of lines) {
      if (line.startsWith(MARK)) this.#mark(line);
      else if (line.trim() !== "") {
        this.#lines.push({ number: this.#count++, text: line.trim().slice(0, MAX_LINE) });
      }
    }
    if (this.#lines.length > MAX_LINES) this.#lines = this.#lines.slice(-MAX_LINES);
  }

  /** Takes what came after the last line break as a line; for the end of the process. */
  flush(): void {
    if (this.#rest !== "") this.push("\n");
  }

  /** Resolves when this mark (a line that begins with `MARK`) has been read, or after `milliseconds`. */
  reached(mark: string, milliseconds: number): Promise<void> {
    if (this.#marks.delete(mark)) return Promise.resolve();
    return new Promise((resolve) => {
      const timer = setTimeout(() => this.#mark(mark), milliseconds);
      this.#waiting.set(mark, () => {
        clearTimeout(timer);
        resolve();
      });
    });
  }

  #mark(mark: string): void {
    const waiting = this.#waiting.get(mark);
    this.#waiting.delete(mark);
    if (waiting === undefined) this.#marks.add(mark);
    else waiting();
  }

  /**
   * Up to three lines since line number `from` that sound like a reason, else the last two; without the
   * function names that llama.cpp puts in front.
   */
  reason(from: number): string {
    const all = this.#lines
      .filter((line) => line.number >= from)
      .map((line) => line.text.replace(/^[\w:~]+: +/, ""));
    const telling = [...new Set(all.filter((text) => TELLING.test(text) && !IDLE.test(text)))];
    return (telling.length > 0 ? telling.slice(-3) : all.slice(-2)).join("; ");
  }
}
