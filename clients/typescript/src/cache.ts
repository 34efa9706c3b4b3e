/** The public cache. */

import type { ConnectionOptions } from "node:tls";

import { SystemClock } from "./clock.js";
import { CacheClosed, RedisUnavailable } from "./errors.js";
import { Freshness } from "./freshness.js";
import type { InFlightRead } from "./in-flight.js";
import { LocalState } from "./local-state.js";
import { LogReader } from "./log-reader.js";
import { Logger, type LogSink } from "./logger.js";
import { Names } from "./names.js";
import { NO_TAGS } from "./near-store.js";
import { Reads } from "./reads.js";
import { parseRedisUrl } from "./redis-url.js";
import { Link, RedisServer } from "./redis.js";
import { KnownRules } from "./rules.js";
import { SubscriberLog } from "./subscriber-log.js";
import { Subscriber } from "./subscriber.js";
import { Subscriptions, type CacheEvent } from "./subscriptions.js";
import { Token, TokenWaits } from "./tokens.js";

export interface CacheOptions {
  /** Address of Redis or Valkey, or of the Sentinels that know it. */
  readonly redisUrl?: string;
  /** The worker's `UNSTALE_NAMESPACE`. */
  readonly namespace?: string;
  /** Seconds without a PONG or a watermark after which the near cache is not used. */
  readonly maxSilence?: number;
  /** Seconds without one after that, after which Redis is not used either. */
  readonly detachedTtl?: number;
  /** Seconds to wait for a connection to Redis, or for a reply. */
  readonly redisTimeout?: number;
  /** Seconds that a copy of an owned value lives whose TTL the rules do not name; the worker's `UNSTALE_DEFAULT_TTL`. */
  readonly defaultTtl?: number;
  /** Most values in the near cache; 0 switches it off. */
  readonly nearMaxEntries?: number;
  /** Most bytes of memory that the near cache takes. */
  readonly nearMaxBytes?: number;
  /** Certificates for `rediss://`, as `tls.connect` takes them. */
  readonly tls?: ConnectionOptions;
  /** Where messages go; `console` by default. */
  readonly logger?: LogSink;
}

export interface ReadOptions {
  /** Only a value that was stored under all these tags answers. */
  readonly tags?: readonly string[];
}

/** How often reads were answered from where, and what the follower did. */
export interface Stats {
  readonly nearHits: number;
  readonly redisHits: number;
  readonly misses: number;
  readonly loads: number;
  readonly nearEntries: number;
  readonly replays: number;
  readonly unreadable: number;
}

type Json = unknown;

/** A load under way, which later callers join as long as no invalidation has overtaken it. */
interface Flight {
  readonly read: InFlightRead;
  readonly json: Promise<string>;
}

/**
 * A cache that follows the worker's log. It answers from its near cache and from Redis, and stores nothing in Redis.
 *
 * @example
 * const cache = new Cache({ redisUrl: process.env.REDIS_URL });
 * await cache.start();
 * const profile = await cache.getOrLoad("user:42:profile", () => loadProfile(42));
 */
export class Cache {
  private readonly local: LocalState;
  private readonly freshness: Freshness;
  private readonly rules: KnownRules;
  private readonly reads: Reads;
  private readonly subscriber: Subscriber;
  private readonly subscriptions: Subscriptions;
  private readonly tokens: TokenWaits;
  private readonly log: LogReader;
  private readonly links: readonly Link[];
  private readonly flights = new Map<string, Flight>();
  private readonly counts = { nearHits: 0, redisHits: 0, misses: 0, loads: 0 };
  private readonly timeout: number;
  private closed = false;

  constructor(options: CacheOptions = {}) {
    const url = parseRedisUrl(options.redisUrl ?? "redis://localhost:6379/0", options.tls);
    const names = new Names(options.namespace, url.database);
    const maxSilence = positive("maxSilence", options.maxSilence ?? 5);
    const detachedTtl = positive("detachedTtl", options.detachedTtl ?? 30);
    const defaultTtl = positive("defaultTtl", options.defaultTtl ?? 60);
    this.timeout = positive("redisTimeout", options.redisTimeout ?? 1);
    const clock = new SystemClock();
    const now = () => clock.now();
    const logger = new Logger(options.logger ?? console);
    const server = new RedisServer(url, this.timeout);
    const values = new Link(server, this.timeout, clock);
    const log = new Link(server, this.timeout, clock);
    this.links = [values, log];
    this.log = new LogReader(names, log, clock);
    this.subscriptions = new Subscriptions(() => this.staleness);
    const bounds = { maxEntries: options.nearMaxEntries ?? 10_000, maxBytes: options.nearMaxBytes ?? 64 * 2 ** 20 };
    this.local = new LocalState(bounds, now, this.subscriptions);
    this.freshness = new Freshness(this.local, now, maxSilence, detachedTtl);
    this.rules = new KnownRules(() => this.log.rules(), { defaultTtl, detachedTtl, reserved: names.tag, logger });
    this.reads = new Reads(values, this.local, this.freshness, this.rules, logger);
    this.tokens = new TokenWaits(() => this.freshness.watermark);
    this.subscriber = new Subscriber(server, this.log, this.local, this.freshness, this.rules, clock, {
      maxSilence,
      report: new SubscriberLog(logger, this.freshness, url.place),
      onSubscribed: () => this.links.forEach((link) => link.renew()),
      onWatermark: () => this.tokens.settle(),
    });
  }

  /**
   * Begin to follow, and wait until the cache is attached, for `redisTimeout` at most. Without Redis or a worker
   * it resolves all the same: then reads go to Redis or to their loaders until it is attached.
   */
  async start(): Promise<void> {
    this.expectOpen();
    this.subscriber.start();
    let timer: NodeJS.Timeout | undefined;
    const late = new Promise<void>((resolve) => (timer = setTimeout(resolve, this.timeout * 1000)));
    const attached = this.subscriber.tried.then(() => {
      const likely = this.subscriber.subscribed && this.freshness.epoch !== null;
      return likely ? this.subscriber.attached : undefined;
    });
    await Promise.race([attached, late]);
    clearTimeout(timer);
  }

  /** True if the near cache may answer: the log is followed and watermarks arrive. */
  get attached(): boolean {
    return this.freshness.attached;
  }

  /** Upper bound in seconds on how old an answer for an owned key can be; Infinity while detached. */
  get staleness(): number {
    return this.freshness.staleness;
  }

  /** Return the cached value, as a copy that is yours to change; undefined if there is none. */
  async get<T = Json>(key: string, options: ReadOptions = {}): Promise<T | undefined> {
    const json = await this.cached(key, this.checked(key, options));
    return json === null ? undefined : (JSON.parse(json) as T);
  }

  /**
   * Return the cached value, or else what `loader` returns; rejects with the loader's error. Callers of one key
   * share a load, each with a copy of its own. What was loaded is not kept. Null is a value: "not found".
   */
  async getOrLoad<T = Json>(key: string, loader: () => T | Promise<T>, options: ReadOptions = {}): Promise<T> {
    const tags = this.checked(key, options);
    const near = this.reads.near(key, tags);
    if (near !== null) {
      this.counts.nearHits += 1;
      return JSON.parse(near) as T;
    }
    const name = JSON.stringify([key, ...tags]);
    let flight = this.flights.get(name);
    if (flight === undefined || !flight.read.valid) {
      const read = this.local.inFlight.open(key, tags);
      const begun: Flight = { read, json: this.fetch(key, tags, loader) };
      const end = () => {
        this.local.inFlight.close(read);
        if (this.flights.get(name) === begun) this.flights.delete(name);
      };
      begun.json.then(end, end);
      this.flights.set(name, begun);
      flight = begun;
    }
    return JSON.parse(await flight.json) as T;
  }

  /**
   * Iterate over the invalidations of keys and tags that a Redis glob matches. An event arrives after this process has
   * dropped its own copies. At most 1,024 wait; a slower subscriber gets one reset instead.
   */
  subscribe(pattern = "*"): AsyncIterableIterator<CacheEvent> {
    this.expectOpen();
    return this.subscriptions.open(pattern);
  }

  /**
   * Wait until the transaction that `select unstale.token()` named is applied here; afterwards this process answers
   * with nothing older. Rejects with `WaitTimeout` after `timeout` seconds, and with RangeError for what is no token.
   */
  async waitFor(token: string, options: { readonly timeout?: number } = {}): Promise<void> {
    this.expectOpen();
    const wanted = Token.parse(token);
    try {
      wanted.expect(await this.log.database());
    } catch (error) {
      if (!(error instanceof RedisUnavailable)) throw error; // a watermark will tell
    }
    await this.tokens.wait(wanted, options.timeout ?? 5);
  }

  get stats(): Stats {
    const { replays, unreadable } = this.subscriber;
    return { ...this.counts, nearEntries: this.local.near.size, replays, unreadable };
  }

  /** Stop following and close the connections. Loads under way go on. */
  async close(): Promise<void> {
    if (this.closed) return;
    this.closed = true;
    for (const link of this.links) link.close();
    await this.subscriber.close();
    this.tokens.close();
    this.subscriptions.close();
    this.local.flush();
  }

  private async cached(key: string, tags: ReadonlySet<string>): Promise<string | null> {
    const near = this.reads.near(key, tags);
    if (near !== null) {
      this.counts.nearHits += 1;
      return near;
    }
    const json = await this.reads.redisValue(key, tags);
    this.counts[json === null ? "misses" : "redisHits"] += 1;
    return json;
  }

  private async fetch(key: string, tags: ReadonlySet<string>, loader: () => unknown): Promise<string> {
    const cached = await this.cached(key, tags);
    if (cached !== null) return cached;
    this.counts.loads += 1;
    const json = JSON.stringify(await loader()) as string | undefined;
    if (json === undefined) {
      throw new TypeError(`the loader of ${JSON.stringify(key)} returned nothing that is JSON; null says "not found"`);
    }
    return json;
  }

  /** Check the arguments of a read; return the tags. */
  private checked(key: string, options: ReadOptions): ReadonlySet<string> {
    this.expectOpen();
    this.rules.check(key);
    const { tags } = options;
    if (tags === undefined || tags.length === 0) return NO_TAGS;
    if (!Array.isArray(tags) || !tags.every((tag) => typeof tag === "string" && tag !== "")) {
      throw new TypeError("tags is not an array of texts, such as ['user:42:memories']");
    }
    return new Set([...tags].sort());
  }

  private expectOpen(): void {
    if (this.closed) throw new CacheClosed();
  }
}

function positive(name: string, value: number): number {
  if (!(value > 0) || !Number.isFinite(value)) throw new RangeError(`${name} is ${value}: expected seconds above 0`);
  return value;
}
