/** Rates are taken over this long, so that a change of pace shows and a hiccup does not. */
const WINDOW_MS = 10_000;

/** How fast bytes went by lately. */
export class Pace {
  readonly #samples: { readonly time: number; readonly bytes: number }[];

  constructor(now: number, bytes: number) {
    this.#samples = [{ time: now, bytes }];
  }

  /**
   * @param now milliseconds of a clock that only goes forward
   * @param bytes total so far
   * @returns bytes a second; 0 before any time has passed
   */
  add(now: number, bytes: number): number {
    this.#samples.push({ time: now, bytes });
    while (this.#samples.length > 2 && now - (this.#samples[0]?.time ?? now) > WINDOW_MS)
      this.#samples.shift();
    const first = this.#samples[0];
    if (first === undefined || now <= first.time) return 0;
    return ((bytes - first.bytes) / (now - first.time)) * 1000;
  }
}
