/** The near cache: JSON texts inside the process, bounded by entries and bytes. */

import { glob, literalBeginning } from "./globs.js";
import { record } from "./names.js";

/** Bytes counted for an entry beside its key and its JSON. */
const ENTRY_BYTES = 300;
/** Bytes of memory for each UTF-16 unit of a text, at most. */
const UNIT_BYTES = 2;

export const NO_TAGS: ReadonlySet<string> = new Set();

export interface Entry {
  readonly json: string;
  readonly expires: number;
  readonly tags: ReadonlySet<string>;
  readonly size: number;
  /** True if it was read since an eviction last passed over it. */
  used: boolean;
}

/** At a bound, the oldest entries that were not read recently are evicted. `Freshness` decides if it may answer. */
export class NearStore {
  private readonly entries = new Map<string, Entry>();
  private readonly byTag = new Map<string, Set<string>>();
  private bytes = 0;

  constructor(
    private readonly maxEntries: number,
    private readonly maxBytes: number,
    private readonly now: () => number,
  ) {}

  get size(): number {
    return this.entries.size;
  }

  /** Return the entry unless it has expired, and mark it as used. */
  read(key: string): Entry | null {
    const entry = this.entries.get(key);
    if (entry === undefined) return null;
    if (this.now() >= entry.expires) {
      this.drop(key);
      return null;
    }
    entry.used = true;
    return entry;
  }

  /** Store a value, unless it is larger than the whole cache. */
  put(key: string, json: string, expires: number, tags: ReadonlySet<string> = NO_TAGS): void {
    this.drop(key);
    const size = ENTRY_BYTES * (1 + tags.size) + UNIT_BYTES * (key.length + json.length);
    if (this.maxEntries === 0 || size > this.maxBytes) return;
    this.entries.set(key, { json, expires, tags, size, used: false });
    this.bytes += size;
    for (const tag of tags) {
      const keys = this.byTag.get(tag);
      if (keys === undefined) this.byTag.set(tag, new Set([key]));
      else keys.add(key);
    }
    this.evict();
  }

  drop(key: string): void {
    const entry = this.entries.get(key);
    if (entry === undefined) return;
    this.entries.delete(key);
    this.bytes -= entry.size;
    for (const tag of entry.tags) {
      const keys = this.byTag.get(tag);
      keys?.delete(key);
      if (keys?.size === 0) this.byTag.delete(tag);
    }
  }

  /** Remove all keys whose values have the tag. */
  dropTag(tag: string): void {
    for (const key of [...(this.byTag.get(tag) ?? [])]) this.drop(key);
  }

  /** Remove all keys that match one of the globs; a glob of tags' records removes the values under these tags. */
  dropMatching(patterns: readonly string[]): void {
    for (const pattern of patterns) {
      const beginning = literalBeginning(pattern);
      const test = glob(pattern);
      for (const key of [...this.entries.keys()]) {
        if (key.startsWith(beginning) && test.matches(Buffer.from(key))) this.drop(key);
      }
      for (const tag of [...this.byTag.keys()]) {
        if (test.matches(Buffer.from(record(tag)))) this.dropTag(tag);
      }
    }
  }

  clear(): void {
    this.entries.clear();
    this.byTag.clear();
    this.bytes = 0;
  }

  private evict(): void {
    for (const [key, entry] of this.entries) {
      if (this.entries.size <= this.maxEntries && this.bytes <= this.maxBytes) return;
      if (entry.used) {
        entry.used = false; // a second chance, at the end of the order
        this.entries.delete(key);
        this.entries.set(key, entry);
      } else {
        this.drop(key);
      }
    }
  }
}
