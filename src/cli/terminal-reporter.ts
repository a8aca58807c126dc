import type { SingleBar } from "cli-progress";
import { formatDuration, formatSize } from "../base/sizes.js";
import { printable } from "./printable.js";
import type { Progress, Reporter } from "../pipeline/progress.js";

/** Without a terminal a running job says a line at most this often. */
const LINE_INTERVAL_MS = 10_000;

function amount(value: number, unit: Progress["unit"]): string {
  return unit === "bytes" ? formatSize(value) : String(Math.round(value));
}

function pace(progress: Progress, seconds: number): string {
  if (seconds <= 0 || progress.done <= 0) return "";
  const average = progress.done / seconds;
  const { rate, left } = progress.pace ?? { rate: average, left: (progress.total - progress.done) / average };
  if (rate <= 0 || left === null) return "";
  const speed = progress.unit === "bytes" ? `${formatSize(rate)}/s` : `${rate.toFixed(1)} ${progress.unit}/s`;
  return `${speed}, ${formatDuration(left)} left`;
}

/**
 * Draws jobs on stderr, so that stdout stays clean for results: a bar on a terminal, plain lines with
 * rate and time left elsewhere (CI logs, pipes).
 */
export class TerminalReporter implements Reporter {
  readonly #stream: NodeJS.WriteStream;
  #label = "";
  #started = 0;
  #lastLine = 0;
  #bar: SingleBar | undefined;
  #createBar: (() => SingleBar) | undefined;

  private constructor(stream: NodeJS.WriteStream, createBar: (() => SingleBar) | undefined) {
    this.#stream = stream;
    this.#createBar = createBar;
  }

  static async create(stream: NodeJS.WriteStream = process.stderr): Promise<TerminalReporter> {
    if (!stream.isTTY || process.env["CI"]) return new TerminalReporter(stream, undefined);
    const { default: progress } = await import("cli-progress");
    return new TerminalReporter(
      stream,
      () =>
        new progress.SingleBar(
          {
            stream,
            format: "{label}  {bar} {percentage} %  {pace}",
            hideCursor: true,
            clearOnComplete: true,
          },
          progress.Presets.shades_classic,
        ),
    );
  }

  start(label: string): void {
    this.#label = printable(label);
    this.#started = performance.now();
    this.#lastLine = this.#started;
    if (this.#createBar === undefined) this.#line(`${label} …`);
  }

  progress(progress: Progress): void {
    const now = performance.now();
    const text = pace(progress, (now - this.#started) / 1000);
    if (this.#createBar !== undefined) {
      if (this.#bar === undefined) {
        this.#bar = this.#createBar();
        this.#bar.start(progress.total, 0, { label: this.#label, pace: "" });
      }
      this.#bar.update(progress.done, { pace: text });
    } else if (now - this.#lastLine >= LINE_INTERVAL_MS) {
      this.#lastLine = now;
      const { done, total, unit } = progress;
      const words = `${this.#label}: ${amount(done, unit)} of ${amount(total, unit)}${unit === "bytes" ? "" : ` ${unit}`}`;
      this.#line(text === "" ? words : `${words} (${text})`);
    }
  }

  finish(outcome: string): void {
    this.#clear();
    this.#line(`${this.#label}: ${outcome} (${formatDuration((performance.now() - this.#started) / 1000)})`);
  }

  warn(message: string): void {
    this.#clear();
    this.#line(`Warning: ${message}`);
  }

  /** Takes a bar that is on the screen away, for instance before an error is printed. */
  stop(): void {
    this.#clear();
  }

  #clear(): void {
    this.#bar?.stop();
    this.#bar = undefined;
  }

  #line(text: string): void {
    this.#stream.write(`${printable(text)}\n`);
  }
}
