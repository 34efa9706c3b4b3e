/**
 * Connections to Redis over ioredis, without its reconnects: an agent that reconnects silently would not know that
 * it has missed something. One ioredis object is one connection, and is thrown away with it.
 */

import { Redis, type RedisOptions } from "ioredis";

import type { Clock } from "./clock.js";
import { RedisUnavailable } from "./errors.js";
import { RefusedCommand, type Commands } from "./log-reader.js";
import type { RedisUrl } from "./redis-url.js";
import type { Connections, Reply, Subscription } from "./subscriber.js";

/** Longest pause in seconds after a failed connection; each next one is twice as long, up to `LAST_PAUSE`. */
const FIRST_PAUSE = 0.05;
const LAST_PAUSE = 2;

export class RedisServer implements Connections {
  constructor(
    private readonly url: RedisUrl,
    private readonly timeout: number,
  ) {}

  get place(): string {
    return this.url.place;
  }

  async open(): Promise<PubSub> {
    return new PubSub(await this.connect(), this.timeout);
  }

  /** Open a connection to a primary; throws `RedisUnavailable`. */
  async connect(): Promise<Redis> {
    const options: RedisOptions = {
      ...this.url.options,
      protocol: 2, // in which pub/sub replies are plain lists, in the order in which Redis wrote them
      lazyConnect: true,
      enableOfflineQueue: false,
      enableReadyCheck: false,
      autoResubscribe: false,
      autoResendUnfulfilledCommands: false,
      disableClientInfo: true,
      retryStrategy: () => null,
      reconnectOnError: () => false,
      maxRetriesPerRequest: 0,
      connectTimeout: this.timeout * 1000,
      keepAlive: 5_000,
    };
    const redis = new Redis(options);
    let cause: Error | undefined;
    redis.on("error", (error: Error) => (cause ??= error));
    try {
      await limited(this.timeout, redis.connect());
      await expectPrimary(redis, this.timeout);
      return redis;
    } catch (error) {
      redis.disconnect();
      throw unavailable(cause ?? error);
    }
  }
}

/** A subscription; its messages and PONGs are queued in the order of arrival. */
export class PubSub implements Subscription {
  private readonly replies: (Reply | Error)[] = [];
  private waiting: (() => void) | null = null;

  constructor(
    private readonly redis: Redis,
    private readonly timeout: number,
  ) {
    redis.on("messageBuffer", (_channel: Buffer, payload: Buffer) => this.arrived({ kind: "message", payload }));
    redis.once("close", () => this.arrived(new RedisUnavailable("connection closed by Redis")));
  }

  async subscribe(channel: string): Promise<void> {
    await limited(this.timeout, this.redis.subscribe(channel));
  }

  ping(number: number): void {
    // ioredis delivers messages at once and this reply a moment later. So a PONG may count as later than it is, but
    // never as earlier: a watermark is never taken for fresher.
    this.redis.ping(String(number)).then(
      () => this.arrived({ kind: "pong", number }),
      () => undefined, // the connection has ended, which is an event of its own
    );
  }

  async next(): Promise<Reply> {
    if (this.replies.length === 0) await new Promise<void>((resolve) => (this.waiting = resolve));
    const reply = this.replies.shift() as Reply | Error;
    if (reply instanceof Error) throw reply;
    return reply;
  }

  close(): void {
    this.redis.disconnect();
    this.arrived(new RedisUnavailable("the connection is closed"));
  }

  private arrived(reply: Reply | Error): void {
    this.replies.push(reply);
    this.waiting?.();
    this.waiting = null;
  }
}

/** One connection for commands. It is opened when it is needed, and again after it has failed. */
export class Link implements Commands {
  private opening: Promise<Redis> | null = null;
  private pause = 0;
  private retryAt = -Infinity;
  private closed = false;

  constructor(
    private readonly server: RedisServer,
    private readonly timeout: number,
    private readonly clock: Clock,
  ) {}

  get pausing(): boolean {
    return this.clock.now() < this.retryAt;
  }

  async command(name: string, ...args: (string | number)[]): Promise<unknown> {
    return (await this.commands([name, ...args]))[0];
  }

  /** Send several commands in order, in one trip. */
  async commands(...all: readonly (readonly (string | number)[])[]): Promise<unknown[]> {
    if (this.closed) throw new RedisUnavailable("the cache is closed");
    if (this.pausing) throw new RedisUnavailable(`Redis at ${this.server.place} is not reachable`);
    const opening = (this.opening ??= this.server.connect());
    try {
      const redis = await opening;
      if (this.opening !== opening) throw new RedisUnavailable("the connection was replaced");
      const replies = await limited(
        this.timeout,
        Promise.all(all.map(([name, ...args]) => redis.callBuffer(String(name), ...args))),
      );
      if (this.opening === opening) this.pause = 0;
      // The server that answered may have been left meanwhile.
      if (this.opening !== opening) throw new RedisUnavailable("the connection was replaced");
      return replies;
    } catch (error) {
      if (isRefusal(error)) throw new RefusedCommand(error.message);
      if (this.opening === opening) {
        this.drop();
        this.pause = Math.min(Math.max(this.pause * 2, FIRST_PAUSE), LAST_PAUSE);
        this.retryAt = this.clock.now() + this.pause * (0.5 + Math.random() / 2);
      }
      throw unavailable(error);
    }
  }

  /** Leave this connection, because the address may now lead to another server. Commands under way fail. */
  renew(): void {
    this.drop();
    this.retryAt = -Infinity;
  }

  close(): void {
    this.closed = true;
    this.drop();
  }

  private drop(): void {
    const { opening } = this;
    this.opening = null;
    opening?.then(
      (redis) => redis.disconnect(),
      () => undefined,
    );
  }
}

/**
 * Throw if the server is a replica, which would keep answering with old values, or a node of a cluster. It is asked
 * with INFO, which the replay needs anyway; a user without that right is taken at its word.
 */
async function expectPrimary(redis: Redis, timeout: number): Promise<void> {
  let told: string;
  try {
    const replication = await limited(timeout, redis.callBuffer("INFO", "replication", "cluster"));
    told = String(replication);
  } catch (error) {
    if (isRefusal(error)) return;
    throw error;
  }
  if (told.includes("cluster_enabled:1")) {
    throw new RedisUnavailable("redisUrl names a node of a Redis Cluster, which this version cannot follow");
  }
  if (!told.includes("role:master")) {
    throw new RedisUnavailable(
      "redisUrl leads to a replica; give the address of the primary, or of Sentinels that know it",
    );
  }
}

function isRefusal(error: unknown): error is Error {
  return error instanceof Error && error.name === "ReplyError";
}

function unavailable(error: unknown): RedisUnavailable {
  if (error instanceof RedisUnavailable) return error;
  return new RedisUnavailable(error instanceof Error ? error.message : String(error));
}

async function limited<T>(seconds: number, promise: Promise<T>): Promise<T> {
  let timer: NodeJS.Timeout | undefined;
  const late = new Promise<never>((_resolve, reject) => {
    timer = setTimeout(() => reject(new RedisUnavailable(`no answer within ${seconds} s`)), seconds * 1000);
  });
  try {
    return await Promise.race([promise, late]);
  } finally {
    clearTimeout(timer);
  }
}
