/** `cache.subscribe`: events that name the invalidated keys. */

import { matches, mayOverlap } from "./globs.js";
import type { Listener } from "./local-state.js";
import { TAG } from "./names.js";

/** Events queued for a slow subscriber; one more replaces them all by one reset. */
const MOST_EVENTS = 1_024;

/** These keys changed, so anything derived from their values is out of date. */
export interface Invalidated {
  readonly type: "invalidated";
  /** The invalidated keys that match the subscription. */
  readonly keys: readonly string[];
  /** The invalidated tags that match it; all values that have one are out of date. */
  readonly tags: readonly string[];
  /** Invalidated globs that may overlap it; all keys and tags that they match are out of date. */
  readonly patterns: readonly string[];
  /** `cache.staleness` when the event was created. */
  readonly staleness: number;
}

/** Anything may have changed: events were lost, or the subscriber was too slow. Rebuild everything. */
export interface Reset {
  readonly type: "reset";
  readonly staleness: number;
}

export type CacheEvent = Invalidated | Reset;

/** An asynchronous iterator of events; ends when the cache is closed. */
export class EventStream implements AsyncIterableIterator<CacheEvent> {
  private events: CacheEvent[] = [];
  private waiting: ((result: IteratorResult<CacheEvent>) => void)[] = [];
  private closed = false;

  constructor(
    private readonly pattern: string,
    private readonly remove: (stream: EventStream) => void,
  ) {}

  next(): Promise<IteratorResult<CacheEvent>> {
    const event = this.events.shift();
    if (event !== undefined) return Promise.resolve({ done: false, value: event });
    if (this.closed) return Promise.resolve({ done: true, value: undefined });
    return new Promise((resolve) => this.waiting.push(resolve));
  }

  /** End the iteration; `break` in a `for await` loop calls it. */
  return(): Promise<IteratorResult<CacheEvent>> {
    this.events = [];
    this.close();
    return Promise.resolve({ done: true, value: undefined });
  }

  [Symbol.asyncIterator](): this {
    return this;
  }

  /** End the iteration after the queued events have been delivered. */
  close(): void {
    this.closed = true;
    this.remove(this);
    for (const resolve of this.waiting.splice(0)) resolve({ done: true, value: undefined });
  }

  /** Queue what concerns this subscription of an invalidation. */
  dropped(keys: readonly string[], patterns: readonly string[], staleness: number): void {
    const { pattern } = this;
    const mine = keys.filter((key) => !key.startsWith(TAG) && matches(pattern, key));
    const tags = keys.filter((key) => key.startsWith(TAG)).map((key) => key.slice(TAG.length));
    const matching = tags.filter((tag) => matches(pattern, tag));
    const globs = patterns.map((glob) => (glob.startsWith(TAG) ? glob.slice(TAG.length) : glob));
    const overlapping = globs.filter((glob) => mayOverlap(glob, pattern));
    if (mine.length + matching.length + overlapping.length > 0) {
      this.offer({ type: "invalidated", keys: mine, tags: matching, patterns: overlapping, staleness });
    }
  }

  offer(event: CacheEvent): void {
    const resolve = this.waiting.shift();
    if (resolve !== undefined) {
      resolve({ done: false, value: event });
      return;
    }
    if (event.type === "reset" || this.events.length >= MOST_EVENTS) {
      this.events = [];
      event = { type: "reset", staleness: event.staleness };
    }
    this.events.push(event);
  }
}

/** All subscriptions of one cache. */
export class Subscriptions implements Listener {
  private readonly streams = new Set<EventStream>();

  constructor(private readonly staleness: () => number) {}

  open(pattern: string): EventStream {
    const stream = new EventStream(pattern, (closed) => this.streams.delete(closed));
    this.streams.add(stream);
    return stream;
  }

  dropped(keys: readonly string[], patterns: readonly string[]): void {
    for (const stream of this.streams) stream.dropped(keys, patterns, this.staleness());
  }

  reset(): void {
    for (const stream of this.streams) stream.offer({ type: "reset", staleness: this.staleness() });
  }

  close(): void {
    for (const stream of [...this.streams]) stream.close();
  }
}
