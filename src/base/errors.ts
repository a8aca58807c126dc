/** Exit code of the command line for an error: 1 a failure, 2 misuse, 3 a gate not met. */
export type ExitCode = 1 | 2 | 3;

/** What an error says beside its message. */
export interface ErrorDetail {
  /** Exit code of the command line; 1 (failure) when left out. */
  exitCode?: ExitCode;
  /** What the user can do about it: one sentence, shown on a line of its own. */
  advice?: string;
  /** The error that led to this one. */
  cause?: unknown;
}

/**
 * The one shape of every error that lapidary raises on purpose.
 *
 * The message is one sentence that names the file, tensor or flag, says what was found and what was
 * expected. `code` is stable and documented for `--json`. Every room derives one class from this one;
 * anything else that reaches the command line is a defect of ours and is reported as such.
 */
export class LapidaryError extends Error {
  readonly code: string;
  readonly exitCode: ExitCode;
  readonly advice: string | undefined;

  constructor(code: string, message: string, detail: ErrorDetail = {}) {
    super(message, detail.cause === undefined ? undefined : { cause: detail.cause });
    this.name = new.target.name;
    this.code = code;
    this.exitCode = detail.exitCode ?? 1;
    this.advice = detail.advice;
  }
}

/** An error as `--json` reports it. */
export interface ReportedError {
  readonly code: string;
  readonly message: string;
  readonly advice?: string;
  readonly exitCode: number;
}
