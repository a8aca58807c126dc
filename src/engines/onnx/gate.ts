const STOP = 0;
const BUSY = 1;

/** Ends the work of the thread; nobody waits for an answer any more. */
export class Stopped extends Error {}

/**
 * What keeps the thread from being taken apart while the runtime is at work in it. A thread that is
 * terminated, or whose process exits, inside a native call of onnxruntime-node 1.30 takes the process along:
 * the binding cannot make its result and throws outside of JavaScript ("terminate called after throwing an
 * instance of 'Napi::Error'", exit code 134). So nobody uses force: the main thread says stop here, and the
 * other one ends itself when the runtime returns, which nothing can hasten.
 */
export class Gate {
  readonly shared: SharedArrayBuffer;
  readonly #state: Int32Array;

  /** @param shared memory of the other thread's gate */
  constructor(shared = new SharedArrayBuffer(8)) {
    this.shared = shared;
    this.#state = new Int32Array(shared);
  }

  /**
   * Makes a call into the runtime.
   *
   * @throws Stopped instead of calling, or of returning what the call gave, after a stop
   */
  async pass<T>(call: () => Promise<T>): Promise<T> {
    // Busy first and then the look at the other flag; the other side does it the other way round.
    Atomics.store(this.#state, BUSY, 1);
    try {
      this.#check();
      return await call();
    } finally {
      Atomics.store(this.#state, BUSY, 0);
      Atomics.notify(this.#state, BUSY);
      this.#check();
    }
  }

  #check(): void {
    if (Atomics.load(this.#state, STOP) === 1) throw new Stopped("the engine was stopped");
  }

  /** Lets no further call through. */
  stop(): void {
    Atomics.store(this.#state, STOP, 1);
  }

  /** Blocks this thread until the runtime has returned, or the time is over. */
  waitForReturn(milliseconds: number): void {
    Atomics.wait(this.#state, BUSY, 1, milliseconds);
  }
}
