/** The clock for staleness, pings and the life of near copies. */

/** Milliseconds of suspension that are noticed. */
const STEP = 500;

export interface Clock {
  /** Seconds since a fixed moment; never goes back. */
  now(): number;
  /** Wait; rejects when `signal` is aborted. */
  sleep(seconds: number, signal?: AbortSignal): Promise<void>;
}

/**
 * The monotonic clock of Node.js stands still while a machine is suspended, and staleness must not. So time by
 * which the wall clock has run ahead counts, too. A wall clock that is set forward costs a moment of being
 * detached; one that is set back changes nothing.
 */
export class SystemClock implements Clock {
  private ahead = Date.now() - performance.now();
  private suspended = 0;

  now(): number {
    const monotonic = performance.now();
    const ahead = Date.now() - monotonic;
    if (ahead > this.ahead + STEP) {
      this.suspended += ahead - this.ahead;
      this.ahead = ahead;
    } else if (ahead < this.ahead) {
      this.ahead = ahead;
    }
    return (monotonic + this.suspended) / 1000;
  }

  sleep(seconds: number, signal?: AbortSignal): Promise<void> {
    return new Promise((resolve, reject) => {
      if (signal?.aborted) {
        reject(signal.reason);
        return;
      }
      const abort = () => {
        clearTimeout(timer);
        reject(signal?.reason);
      };
      const timer = setTimeout(() => {
        signal?.removeEventListener("abort", abort);
        resolve();
      }, seconds * 1000);
      signal?.addEventListener("abort", abort, { once: true });
    });
  }
}
