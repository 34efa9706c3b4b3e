/** Everything in the process that an invalidation affects: near cache, reads in flight, subscribers. */

import { InFlightReads, type InFlightRead } from "./in-flight.js";
import { TAG } from "./names.js";
import { NearStore } from "./near-store.js";

export interface Listener {
  dropped(keys: readonly string[], patterns: readonly string[]): void;
  reset(): void;
}

export class LocalState {
  readonly near: NearStore;
  readonly inFlight = new InFlightReads();

  constructor(
    options: { readonly maxEntries: number; readonly maxBytes: number },
    private readonly now: () => number,
    private readonly listener?: Listener,
  ) {
    this.near = new NearStore(options.maxEntries, options.maxBytes, now);
  }

  /** Keep a value near if this process is attached and the read was not invalidated. */
  keep(read: InFlightRead, json: string, seconds: number, trustedUntil: number): void {
    const now = this.now();
    if (read.valid && now < trustedUntil) this.near.put(read.key, json, now + seconds, read.tags);
  }

  /** Remove keys and the matches of patterns, and invalidate their reads. A tag's record stands for its values. */
  drop(keys: readonly string[], patterns: readonly string[]): void {
    for (const key of keys) {
      this.near.drop(key);
      this.inFlight.invalidate(key);
      if (key.startsWith(TAG)) {
        const tag = key.slice(TAG.length);
        this.near.dropTag(tag);
        this.inFlight.invalidateTag(tag);
      }
    }
    if (patterns.length > 0) {
      this.near.dropMatching(patterns);
      this.inFlight.invalidateMatching(patterns);
    }
    if (keys.length > 0 || patterns.length > 0) this.listener?.dropped(keys, patterns);
  }

  /** Remove everything, and invalidate every read in flight. */
  flush(): void {
    this.near.clear();
    this.inFlight.invalidateAll();
    this.listener?.reset();
  }
}
