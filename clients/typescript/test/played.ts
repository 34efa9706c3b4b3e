/** Plays one case of `following.json` with the objects of this client; only the network and the clock are replaced. */

import assert from "node:assert/strict";

import { RedisUnavailable } from "../src/errors.js";
import { Freshness } from "../src/freshness.js";
import type { InFlightRead } from "../src/in-flight.js";
import { LocalState } from "../src/local-state.js";
import { LogReader, NEWEST, RefusedCommand, type Commands } from "../src/log-reader.js";
import { Logger } from "../src/logger.js";
import { Names } from "../src/names.js";
import { NO_TAGS } from "../src/near-store.js";
import { Reads } from "../src/reads.js";
import { KnownRules } from "../src/rules.js";
import { SubscriberLog } from "../src/subscriber-log.js";
import { Subscriber, type Connections, type Reply, type Subscription } from "../src/subscriber.js";
import { VirtualClock } from "./virtual-time.js";

/* eslint-disable @typescript-eslint/no-explicit-any -- steps are what the file says */
export type Step = Record<string, any>;

/** Clock of the played Redis, in seconds, when a case begins. */
const EPOCH_TIME = 1_800_000_000;
const TOLERANCE = 0.001;

class PlayedRedis implements Commands {
  readonly pausing = false;
  answers: Step = {};
  replays: (number | string)[] = [];

  constructor(private readonly clock: VirtualClock) {}

  async command(name: string, ...args: (string | number)[]): Promise<unknown> {
    const said = this.answers;
    const now = EPOCH_TIME + this.clock.now();
    if (name === "EVALSHA") {
      const after = Number(args[4]);
      this.replays.push(after === NEWEST ? "newest" : after);
      const reply = this.replay(after);
      if (said["delay"] > 0) await this.clock.sleep(said["delay"]);
      return reply;
    }
    if (name === "HGET") {
      const age = said["applied_age_ms"];
      if (age === "refused") throw new RefusedCommand("NOPERM this user has no permissions to run the 'hget' command");
      return age === null ? null : Buffer.from(String(Math.round(now * 1000 - age)));
    }
    if (name === "TIME") {
      return [Math.floor(now), Math.round((now % 1) * 1e6)].map((part) => Buffer.from(String(part)));
    }
    if (name === "GET") {
      const rules = said["rules"];
      return rules === null ? null : Buffer.from(typeof rules === "string" ? rules : JSON.stringify(rules));
    }
    throw new Error(`no case says what Redis answers to ${name}`);
  }

  private replay(after: number): unknown[] {
    const said = this.answers;
    const text = (value: unknown) => Buffer.from(value === null ? "" : String(value));
    if (said["epoch"] === null) return [null, said["last"], 0, [], 0, text(null), text(null)];
    const entries = (said["entries"] as [number, string][])
      .filter(([id]) => id > after)
      .map(([id, body]) => [text(`${id}-0`), [text("m"), text(body)]]);
    const complete = said["complete"] ? 1 : 0;
    const { epoch, last, stands, age_ms, rules_hash } = said;
    return [text(epoch), last, complete, entries, stands, text(age_ms), text(rules_hash)];
  }
}

class PlayedSubscription implements Subscription {
  private readonly replies: (Reply | Error)[] = [];
  private waiting: (() => void) | null = null;
  private readonly held: number[] = [];

  constructor(private readonly network: PlayedNetwork) {}

  async subscribe(): Promise<void> {
    for (const payload of this.network.inbox.splice(0)) this.arrive({ kind: "message", payload });
  }

  ping(number: number): void {
    if (this.network.holdsPongs) this.held.push(number);
    else this.arrive({ kind: "pong", number });
  }

  pongs(): void {
    for (const number of this.held.splice(0)) this.arrive({ kind: "pong", number });
  }

  async next(): Promise<Reply> {
    if (this.replies.length === 0) await new Promise<void>((resolve) => (this.waiting = resolve));
    const reply = this.replies.shift() as Reply | Error;
    if (reply instanceof Error) throw reply;
    return reply;
  }

  close(): void {
    this.arrive(new RedisUnavailable("closed"));
  }

  arrive(reply: Reply | Error): void {
    this.replies.push(reply);
    this.waiting?.();
    this.waiting = null;
  }
}

class PlayedNetwork implements Connections {
  readonly place = "played";
  opened = 0;
  refuses = false;
  holdsPongs = false;
  inbox: Uint8Array[] = [];
  current!: PlayedSubscription;

  async open(): Promise<Subscription> {
    if (this.refuses) throw new RedisUnavailable("connection refused");
    this.opened += 1;
    return (this.current = new PlayedSubscription(this));
  }
}

/** Play one case; throws where the client does something else. */
export async function play(test: Step): Promise<void> {
  const player = new Player(test["settings"]);
  try {
    for (const [at, step] of (test["steps"] as Step[]).entries()) {
      await player.act(step);
      const expected = step["expect"] ?? {};
      assert.deepEqual(player.told(expected), expected, `step ${at + 1}: ${JSON.stringify(step)}`);
    }
  } finally {
    await player.close();
  }
}

class Player {
  private readonly clock = new VirtualClock();
  private readonly redis = new PlayedRedis(this.clock);
  private readonly network = new PlayedNetwork();
  private readonly local: LocalState;
  private readonly freshness: Freshness;
  private readonly rules: KnownRules;
  private readonly reads: Reads;
  private readonly subscriber: Subscriber;
  private readonly inFlight = new Map<string, InFlightRead>();

  constructor(settings: Step) {
    const { clock } = this;
    const now = () => clock.now();
    const logger = new Logger({ info: () => undefined, warn: () => undefined });
    const maxSilence = settings["max_silence"] as number;
    const detachedTtl = settings["detached_ttl"] as number;
    const log = new LogReader(new Names(), this.redis, clock);
    this.local = new LocalState({ maxEntries: settings["near_max_entries"], maxBytes: 2 ** 20 }, now);
    this.freshness = new Freshness(this.local, now, maxSilence, detachedTtl);
    const rules = { defaultTtl: 60, detachedTtl, reserved: "{unstale:0}", logger };
    this.rules = new KnownRules(() => log.rules(), rules);
    const nothing = { commands: () => Promise.reject(new RedisUnavailable("played")) };
    this.reads = new Reads(nothing, this.local, this.freshness, this.rules, logger);
    this.subscriber = new Subscriber(this.network, log, this.local, this.freshness, this.rules, clock, {
      maxSilence,
      report: new SubscriberLog(logger, this.freshness, "played"),
      onSubscribed: () => undefined,
      onWatermark: () => undefined,
    });
  }

  async close(): Promise<void> {
    await this.subscriber.close();
  }

  async act(step: Step): Promise<void> {
    this.redis.replays = [];
    await this.run(step);
    await this.clock.settle();
  }

  private async run(step: Step): Promise<void> {
    const { network } = this;
    if ("start" in step) this.subscriber.start();
    else if ("redis" in step) this.redis.answers = { ...this.redis.answers, ...step["redis"] };
    else if ("publish" in step) network.current.arrive({ kind: "message", payload: bytes(step["publish"]) });
    else if ("inbox" in step) network.inbox = step["inbox"].map(bytes);
    else if ("pongs" in step) {
      network.holdsPongs = step["pongs"] === "held";
      if (!network.holdsPongs) network.current?.pongs();
    } else if ("advance" in step) await this.clock.advance(step["advance"]);
    else if ("pause" in step) {
      for (const payload of step["meanwhile"]) network.current.arrive({ kind: "message", payload: bytes(payload) });
      this.clock.jump(step["pause"]);
    } else if ("lose" in step) network.current.arrive(new RedisUnavailable("connection closed by Redis"));
    else if ("connections" in step) network.refuses = step["connections"] === "refused";
    else if ("read" in step) this.inFlight.set(step["read"]["as"], this.open(step["read"]));
    else if ("keep" in step) this.keep(this.inFlight.get(step["keep"]["read"]) as InFlightRead, step["keep"]);
    else if ("put" in step) this.keep(this.open(step["put"]), step["put"]);
    else if (!("look" in step)) throw new Error(`${JSON.stringify(step)} is no step`);
  }

  private open(asked: Step): InFlightRead {
    return this.local.inFlight.open(asked["key"], new Set(asked["tags"] ?? []));
  }

  private keep(read: InFlightRead, asked: Step): void {
    this.local.keep(read, JSON.stringify(asked["value"]), asked["seconds"], this.freshness.trustedUntil);
    this.local.inFlight.close(read);
  }

  /** Return the client's state, as far as `expected` names it. */
  told(expected: Step): Step {
    const { freshness } = this;
    const questions: Record<string, (value: any) => unknown> = {
      attached: () => freshness.attached,
      believes_redis: () => freshness.believesRedis,
      staleness: (value) => near(freshness.staleness, value),
      epoch: () => freshness.epoch,
      last: () => freshness.last,
      rules: () => this.rules.hash,
      held: (keys) => mapped(keys, (key) => this.reads.near(key, NO_TAGS) !== null),
      valid: (names) => mapped(names, (name) => this.inFlight.get(name)?.valid),
      replays: () => this.redis.replays,
      connections: () => this.network.opened,
    };
    return Object.fromEntries(
      Object.entries(expected).map(([name, value]) => [name, questions[name]?.(value)]),
    );
  }
}

function mapped(names: Step, ask: (name: string) => unknown): Step {
  return Object.fromEntries(Object.keys(names).map((name) => [name, ask(name)]));
}

function bytes(payload: unknown): Uint8Array {
  return Buffer.from(typeof payload === "string" ? payload : JSON.stringify(payload));
}

/** Return `wanted` if `found` is it: null is infinite, and two numbers are the ends of a range. */
function near(found: number, wanted: unknown): unknown {
  if (Array.isArray(wanted)) return wanted[0] <= found && found <= wanted[1] ? wanted : found;
  if (typeof wanted === "number" && Math.abs(found - wanted) < TOLERANCE) return wanted;
  return found === Infinity ? null : found;
}
