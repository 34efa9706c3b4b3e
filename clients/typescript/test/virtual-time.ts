/** A clock whose time passes only in `advance` and `jump`. */

import type { Clock } from "../src/clock.js";

/** Turns of the event loop after which nothing is left to do. */
const TURNS = 12;

interface Timer {
  readonly at: number;
  readonly fire: () => void;
}

export class VirtualClock implements Clock {
  private time = 0;
  private timers: Timer[] = [];

  now(): number {
    return this.time;
  }

  sleep(seconds: number, signal?: AbortSignal): Promise<void> {
    return new Promise((resolve, reject) => {
      if (signal?.aborted) return reject(signal.reason);
      const abort = () => {
        this.timers = this.timers.filter((other) => other !== timer);
        reject(signal?.reason);
      };
      const fire = () => {
        signal?.removeEventListener("abort", abort);
        resolve();
      };
      const timer = { at: this.time + seconds, fire };
      this.timers.push(timer);
      signal?.addEventListener("abort", abort, { once: true });
    });
  }

  /** Let time pass, and fire the timers in their order. */
  async advance(seconds: number): Promise<void> {
    const end = this.time + seconds;
    await this.settle();
    for (;;) {
      const [next] = this.timers.filter(({ at }) => at <= end).sort((one, other) => one.at - other.at);
      if (next === undefined) break;
      this.timers = this.timers.filter((timer) => timer !== next);
      this.time = Math.max(this.time, next.at);
      next.fire();
      await this.settle();
    }
    this.time = end;
  }

  /** Let time pass in which the process stands still. */
  jump(seconds: number): void {
    this.time += seconds;
  }

  /** Let everything run until it waits for a timer, and fire those that are due. */
  async settle(): Promise<void> {
    for (let turn = 0; turn < TURNS; turn += 1) {
      await new Promise((resolve) => setImmediate(resolve));
      for (const timer of this.timers.filter(({ at }) => at <= this.time)) {
        this.timers = this.timers.filter((other) => other !== timer);
        timer.fire();
      }
    }
  }
}
