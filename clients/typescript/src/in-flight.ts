/** Reads in flight: an invalidation during a read marks its result as not to be kept. */

import { glob } from "./globs.js";
import { record } from "./names.js";
import { NO_TAGS } from "./near-store.js";

export class InFlightRead {
  /** False once the key or one of the tags was invalidated, or everything was dropped. */
  valid = true;

  constructor(
    readonly key: string,
    readonly tags: ReadonlySet<string>,
  ) {}
}

/** All reads in flight of one process. */
export class InFlightReads {
  private readonly byKey = new Map<string, Set<InFlightRead>>();
  private readonly tagged = new Set<InFlightRead>();

  /** Register a read. Call it before the read is sent, and `close` afterwards. */
  open(key: string, tags: ReadonlySet<string> = NO_TAGS): InFlightRead {
    const read = new InFlightRead(key, tags);
    const others = this.byKey.get(key);
    if (others === undefined) this.byKey.set(key, new Set([read]));
    else others.add(read);
    if (tags.size > 0) this.tagged.add(read);
    return read;
  }

  close(read: InFlightRead): void {
    this.tagged.delete(read);
    const reads = this.byKey.get(read.key);
    reads?.delete(read);
    if (reads?.size === 0) this.byKey.delete(read.key);
  }

  invalidate(key: string): void {
    for (const read of this.byKey.get(key) ?? []) read.valid = false;
  }

  /** Invalidate all reads whose reader names the tag. */
  invalidateTag(tag: string): void {
    for (const read of this.tagged) if (read.tags.has(tag)) read.valid = false;
  }

  invalidateMatching(patterns: readonly string[]): void {
    for (const pattern of patterns) {
      const test = glob(pattern);
      for (const key of this.byKey.keys()) if (test.matches(Buffer.from(key))) this.invalidate(key);
      for (const read of this.tagged) {
        for (const tag of read.tags) if (test.matches(Buffer.from(record(tag)))) read.valid = false;
      }
    }
  }

  invalidateAll(): void {
    for (const key of this.byKey.keys()) this.invalidate(key);
  }
}
