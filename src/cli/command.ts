import { Command } from "@oclif/core";
import { removeAllTemporaries } from "../base/atomic-file.js";
import { LapidaryError, type ReportedError } from "../base/errors.js";
import type { Reporter } from "../pipeline/progress.js";
import { printable } from "./printable.js";

/** The shape in which `--json` reports an error; the process exits with `exitCode`. */
interface ErrorReport {
  readonly error: ReportedError;
}

/** Exit codes of a process that a signal ended, as shells count them. */
const SIGNAL_EXIT = { SIGHUP: 129, SIGINT: 130, SIGTERM: 143 } as const;

/** A signal that comes this soon after another is the same wish: `timeout` tells the process and its group. */
const SAME_SIGNAL_MS = 500;

/** One sentence of what oclif spreads over several lines, with its own pointer to the help left out. */
function flatten(message: string): string {
  return message
    .replace(/\n?See more help with --help\s*$/, "")
    .replace(/^Parsing --\S+\s+/, "")
    .replace(/^The following errors? occurred:\s*([^]*)/, (_, errors: string) => errors.replace(/\n/g, ";\n"))
    .replace(/\bMissing required flag (?=\w)/g, "Missing required flag --")
    .split(/\s*\n\s*/)
    .join(" ")
    .replace(/\s+/g, " ");
}

function describe(error: unknown): ReportedError {
  if (error instanceof LapidaryError) {
    const { code, advice, exitCode } = error;
    const message = flatten(error.message);
    return advice === undefined ? { code, message, exitCode } : { code, message, advice, exitCode };
  }
  const oclif = (error as { oclif?: { exit?: number | false } }).oclif;
  if (error instanceof Error && typeof oclif?.exit === "number") {
    return { code: "misuse", message: flatten(error.message), exitCode: oclif.exit };
  }
  return {
    code: "internal",
    message: error instanceof Error ? `${error.name}: ${error.message}` : String(error),
    advice: "This is a defect of lapidary. Run again with DEBUG=lapidary to see where, and please report it.",
    exitCode: 1,
  };
}

/**
 * What all commands share: `--json`, errors without stack traces and with the right exit code, an abort
 * signal that Ctrl-C triggers, and progress on stderr.
 *
 * `Result` is the documented shape that `--json` prints.
 */
export abstract class LapidaryCommand<Result> extends Command {
  static override enableJsonFlag = true;

  readonly #abort = new AbortController();
  #endedBy: keyof typeof SIGNAL_EXIT | undefined;
  #stopReporter: (() => void) | undefined;
  readonly #unlisten: (() => void)[] = [];

  abstract override run(): Promise<Result>;

  /** Aborted on the first Ctrl-C or SIGTERM; a second one ends the process at once. */
  protected get signal(): AbortSignal {
    return this.#abort.signal;
  }

  protected async reporter(): Promise<Reporter> {
    const { TerminalReporter } = await import("./terminal-reporter.js");
    const reporter = await TerminalReporter.create();
    this.#stopReporter = () => reporter.stop();
    return reporter;
  }

  protected override async init(): Promise<void> {
    await super.init();
    let first: number | undefined;
    for (const name of Object.keys(SIGNAL_EXIT) as (keyof typeof SIGNAL_EXIT)[]) {
      const onSignal = (): void => {
        first ??= performance.now();
        if (this.#endedBy === undefined) {
          this.#endedBy = name;
          this.#abort.abort(new LapidaryError("aborted", `Stopped by ${name}.`));
        } else if (performance.now() - first > SAME_SIGNAL_MS) {
          // Whoever asks twice does not want to wait; temporary files go all the same.
          removeAllTemporaries();
          process.exit(SIGNAL_EXIT[name]);
        }
      };
      process.on(name, onSignal);
      this.#unlisten.push(() => process.off(name, onSignal));
    }
  }

  protected override async finally(error: Error | undefined): Promise<void> {
    await super.finally(error);
    for (const unlisten of this.#unlisten) unlisten();
  }

  protected override async catch(error: Error & { exitCode?: number }): Promise<void> {
    this.#stopReporter?.();
    if ("code" in error && error.code === "EEXIT") throw error;
    const report =
      this.#endedBy === undefined
        ? describe(error)
        : { code: "aborted", message: `Stopped by ${this.#endedBy}.`, exitCode: SIGNAL_EXIT[this.#endedBy] };
    if (this.jsonEnabled()) this.logJson({ error: report } satisfies ErrorReport);
    else this.#tell(report);
    if (/\*|lapidary/.test(process.env["DEBUG"] ?? "") && error.stack !== undefined)
      process.stderr.write(`${error.stack}\n`);
    this.exit(report.exitCode);
  }

  /** Reports gates that were missed: the result is printed as ever, and the process exits with code 3. */
  protected gate(missed: readonly string[]): void {
    for (const message of missed) process.stderr.write(`Gate missed: ${printable(message)}\n`);
    if (missed.length > 0) process.exitCode = 3;
  }

  /** Ends the process with an error that is part of the result, which is printed as ever. */
  protected fail(error: ReportedError): void {
    if (!this.jsonEnabled()) this.#tell(error);
    process.exitCode = error.exitCode;
  }

  #tell({ code, message, advice }: ReportedError): void {
    process.stderr.write(`Error: ${printable(message)}\n`);
    if (advice !== undefined) process.stderr.write(`  ${printable(advice)}\n`);
    if (code === "misuse")
      process.stderr.write(`  See lapidary ${(this.id ?? "").replaceAll(":", " ")} --help.\n`);
  }

  /** JSON is printed plain, never coloured: it is read by programs. */
  override logJson(json: unknown): void {
    process.stdout.write(`${JSON.stringify(json, null, 2)}\n`);
  }
}
