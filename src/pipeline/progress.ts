/** One step of a running job, as a progress bar or a line of a log wants it. */
export interface Progress {
  readonly done: number;
  readonly total: number;
  /** What is counted. */
  readonly unit: "bytes" | "windows" | "runs" | "steps" | "values" | "folds";
  /** How fast it goes and the seconds that are left, where the job knows better than the average from its start on. */
  readonly pace?: { readonly rate: number; readonly left: number | null };
}

/** Where the pipeline tells what it is doing. The command line draws it; a library user may ignore it. */
export interface Reporter {
  /** Begins a job with a label such as `nano-e-Q4_0.gguf`; jobs do not nest. */
  start(label: string): void;
  progress(progress: Progress): void;
  /** Ends the job that runs, with a word on how it went. */
  finish(outcome: string): void;
  /** Something that the user should know and that stops nothing. */
  warn(message: string): void;
}

/** Tells nobody. */
export const silent: Reporter = {
  start() {},
  progress() {},
  finish() {},
  warn() {},
};
