/** Follows the log over a pub/sub connection, and detects every gap. */

import type { Clock } from "./clock.js";
import { MessageError, RedisUnavailable } from "./errors.js";
import type { Freshness } from "./freshness.js";
import type { LocalState } from "./local-state.js";
import { NEWEST, RefusedCommand, type LogReader, type Replay } from "./log-reader.js";
import { decode, type Invalidation, type Watermark } from "./messages.js";
import type { KnownRules } from "./rules.js";
import { Moved, NoWatermark, Silence, SubscriberLog } from "./subscriber-log.js";

/** Longest time in seconds between two PINGs. It determines how precise `staleness` is. */
const PING_INTERVAL = 1;
/** Fewest PINGs in `maxSilence`. */
const PINGS_PER_SILENCE = 4;
/** Longest pause in seconds before the first reconnect; doubles up to `LAST_PAUSE`, each shortened at random. */
const FIRST_PAUSE = 0.05;
const LAST_PAUSE = 2;

export type Reply =
  | { readonly kind: "message"; readonly payload: Uint8Array }
  | { readonly kind: "pong"; readonly number: number };

/** A pub/sub connection to the primary that never reconnects by itself. */
export interface Subscription {
  /** Subscribe; resolves when Redis has confirmed. */
  subscribe(channel: string): Promise<void>;
  /** Send a PING with this number. */
  ping(number: number): void;
  /** Return the next message or PONG, in the order of arrival; rejects when the connection has ended. */
  next(): Promise<Reply>;
  close(): void;
}

export interface Connections {
  /** Open a connection to a primary; rejects if that takes too long. */
  open(): Promise<Subscription>;
  /** The server's address, for logs. */
  readonly place: string;
}

/** One connection, from its subscription on. What is awaited on one that has ended is not processed. */
class Session {
  private readonly controller = new AbortController();
  readonly signal = this.controller.signal;

  constructor(readonly connection: Subscription) {}

  /** Return the result, or throw if the connection has ended meanwhile. */
  async during<T>(promise: Promise<T>): Promise<T> {
    const result = await promise;
    this.signal.throwIfAborted();
    return result;
  }

  end(): void {
    this.controller.abort(new RedisUnavailable("the connection has ended"));
    this.connection.close();
  }
}

export class Subscriber {
  /** Replays, including the one of each connection. */
  replays = 0;
  /** Messages and log entries that could not be read; each is a gap. */
  unreadable = 0;
  subscribed = false;
  /** Resolves when the first attempt to subscribe and replay has ended, with or without success. */
  readonly tried: Promise<void>;
  /** Resolves when a watermark has counted. */
  readonly attached: Promise<void>;

  private settleTried!: () => void;
  private settleAttached!: () => void;
  private readonly report: SubscriberLog;
  private readonly closing = new AbortController();
  private running: Promise<void> | null = null;
  private session: Session | null = null;
  private skipEntries = false;

  constructor(
    private readonly connections: Connections,
    private readonly log: LogReader,
    private readonly local: LocalState,
    private readonly freshness: Freshness,
    private readonly rules: KnownRules,
    private readonly clock: Clock,
    private readonly options: {
      readonly maxSilence: number;
      readonly report: SubscriberLog;
      /** Called after each new subscription: other connections may now lead to another server, too. */
      readonly onSubscribed: () => void;
      readonly onWatermark: () => void;
    },
  ) {
    this.report = options.report;
    this.tried = new Promise((resolve) => (this.settleTried = resolve));
    this.attached = new Promise((resolve) => (this.settleAttached = resolve));
  }

  /** Begin to follow, and return at once. */
  start(): void {
    this.running ??= this.run();
  }

  /** Stop following; the near cache is no longer trusted. */
  async close(): Promise<void> {
    this.closing.abort(new RedisUnavailable("the cache is closed"));
    this.session?.end();
    this.freshness.lost(false);
    await this.running;
  }

  private async run(): Promise<void> {
    let pause = 0;
    let answered = false;
    while (!this.closing.signal.aborted) {
      // A connection on which no watermark came proves that the state does not tell whether one will.
      const byState = !answered;
      const begun = this.clock.now();
      try {
        await this.followOnce(byState);
      } catch (error) {
        answered = error instanceof NoWatermark;
        this.subscribed = false;
        this.freshness.lost(answered);
        if (this.closing.signal.aborted) return;
        this.report.lost(error);
        const lasted = this.clock.now() - begun >= LAST_PAUSE;
        pause = lasted ? FIRST_PAUSE : Math.min(Math.max(pause * 2, FIRST_PAUSE), LAST_PAUSE);
      }
      this.settleTried();
      await this.clock.sleep(pause * (0.5 + Math.random() / 2), this.closing.signal).catch(() => undefined);
    }
  }

  private async followOnce(byState: boolean): Promise<never> {
    const session = new Session(await this.connections.open());
    this.session = session;
    const { freshness } = this;
    try {
      this.closing.signal.throwIfAborted();
      const subscribed = this.clock.now();
      await session.connection.subscribe(this.log.names.channel);
      this.subscribed = true;
      freshness.doubted(); // the other connections may now lead to another server, too
      this.options.onSubscribed();
      const again = freshness.epoch !== null;
      const found = await this.firstReplay(session);
      freshness.connected(subscribed, again && !found.tellsRun);
      if (freshness.epoch === null) this.report.noEpoch();
      freshness.proved(-Infinity);
      if (byState && found.age !== null && freshness.shown(found.age, found.sent, subscribed)) this.accepted();
      else await this.prove(session);
      this.settleTried();
      return await Promise.race([this.ping(session), this.proveForever(session), this.listen(session)]);
    } finally {
      session.end();
    }
  }

  private async ping(session: Session): Promise<never> {
    const { freshness } = this;
    const { maxSilence } = this.options;
    const begun = this.clock.now();
    for (;;) {
      if (freshness.unanswered > maxSilence) throw new Silence(`no answer to a PING for ${maxSilence} s`);
      session.connection.ping(freshness.ping());
      this.report.silent(maxSilence);
      if (!freshness.attached && this.clock.now() - begun > maxSilence) {
        throw new NoWatermark(`no watermark for ${maxSilence} s`);
      }
      await this.clock.sleep(this.interval, session.signal);
    }
  }

  private async proveForever(session: Session): Promise<never> {
    for (;;) {
      await this.clock.sleep(this.interval, session.signal);
      await this.prove(session);
    }
  }

  private get interval(): number {
    return Math.min(PING_INTERVAL, this.options.maxSilence / PINGS_PER_SILENCE);
  }

  /** Read from the state when the worker last published a watermark: see `Freshness.proved`. */
  private async prove(session: Session): Promise<void> {
    const sent = this.clock.now();
    try {
      const age = await session.during(this.log.watermarkAge());
      if (age !== null) this.freshness.proved(sent - age);
    } catch (error) {
      session.signal.throwIfAborted();
      if (!(error instanceof RedisUnavailable)) throw error;
      // Otherwise the next reading, or the connection itself, will tell.
      if (error instanceof RefusedCommand && error.notPermitted) {
        this.freshness.proved(Infinity);
        this.report.unproved(error);
      }
    }
  }

  private async listen(session: Session): Promise<never> {
    for (;;) {
      const reply = await session.during(session.connection.next());
      if (reply.kind === "pong") this.freshness.pong(reply.number);
      else await this.hear(session, reply.payload);
    }
  }

  private async hear(session: Session, payload: Uint8Array): Promise<void> {
    let message;
    try {
      message = decode(payload);
    } catch (error) {
      if (!(error instanceof MessageError)) throw error;
      this.unreadable += 1;
      this.report.unreadable(this.log.names.channel, error);
      await this.closeGap(session);
      return;
    }
    if (message.kind === "invalidation") await this.invalidate(session, message);
    else if (message.kind === "watermark") await this.watermarkArrived(session, message);
    else {
      this.freshness.muted();
      this.report.unknownVersion(message.version);
    }
  }

  private async invalidate(session: Session, message: Invalidation): Promise<void> {
    const { freshness } = this;
    if (message.epoch !== freshness.epoch) {
      await this.otherEpoch(session, message.epoch, message.id);
      return;
    }
    if (message.prev !== freshness.last) await this.closeGap(session);
    this.local.drop(message.keys, message.patterns);
    if (freshness.epoch === message.epoch) freshness.advanced(message.id);
  }

  private async watermarkArrived(session: Session, message: Watermark): Promise<void> {
    const { freshness } = this;
    if (message.epoch !== freshness.epoch) {
      await this.otherEpoch(session, message.epoch, message.last);
      if (message.epoch !== freshness.epoch) return;
    } else if (message.last !== freshness.last) {
      await this.closeGap(session);
    }
    if (message.rules !== this.rules.hash) await session.during(this.rules.load());
    if (freshness.unproved) await this.prove(session);
    const reached = freshness.epoch === message.epoch && freshness.last >= message.last;
    if (reached && freshness.heard(message)) {
      this.accepted();
      this.options.onWatermark();
    }
  }

  private accepted(): void {
    this.settleAttached();
    this.report.attached();
  }

  /**
   * Handle a message whose epoch is not the followed one: replay. If none was followed, go on with the new one. If
   * another one was followed, end the connection: what follows on it may come from a server that was demoted. A
   * message of an epoch that the state has already left is ignored.
   */
  private async otherEpoch(session: Session, epoch: string, last: number): Promise<void> {
    const before = this.freshness.epoch;
    const stands = await this.replay(session);
    const now = this.freshness.epoch;
    if (now === epoch && before === null) this.freshness.advanced(last);
    else if (now === epoch || !(stands || now === null)) throw new Moved();
  }

  /** Replay what was missed; throws `Moved` if this is no longer the log that was followed. */
  private async closeGap(session: Session): Promise<void> {
    if (!(await this.replay(session)) && this.freshness.epoch !== null) throw new Moved();
  }

  private async firstReplay(session: Session): Promise<Replay> {
    const both = Promise.all([this.readLog(), this.rules.load()]);
    let [found] = await session.during(both);
    if (found.age !== null && found.rules !== this.rules.hash) {
      await session.during(this.rules.load()); // they were published after that read
    }
    // It may be another server, where a lost id has come again.
    if (!found.tellsRun) found = { ...found, complete: false };
    this.process(found);
    return found;
  }

  /** Replay from `last`; return true if it is still the same log, of the same epoch and run. */
  private async replay(session: Session): Promise<boolean> {
    return this.process(await session.during(this.readLog()));
  }

  private async readLog(): Promise<Replay> {
    this.replays += 1;
    const skip = this.skipEntries;
    // In a pause nothing is sent, so that no entry can have taken too long.
    this.skipEntries = skip || !this.log.pausing;
    try {
      // If the last replay failed, its entries took too long: skip them.
      const found = await this.log.replay(skip ? NEWEST : this.freshness.last);
      this.skipEntries = false;
      return { ...found, complete: found.complete && !skip };
    } catch (error) {
      if (!(error instanceof MessageError)) throw error;
      this.unreadable += 1; // the next replay skips the entries
      this.report.unreadable(this.log.names.log, error);
      const nothing = { complete: false, entries: [], stands: false, tellsRun: true, age: null, rules: "" };
      return { epoch: null, last: this.freshness.last, sent: this.clock.now(), ...nothing };
    }
  }

  private process(found: Replay): boolean {
    const { freshness } = this;
    const known = found.epoch !== null && found.epoch === freshness.epoch && found.last >= freshness.last;
    if (known && found.complete) {
      for (const entry of found.entries) this.local.drop(entry.keys, entry.patterns);
      freshness.advanced(found.last);
    } else {
      freshness.adopted(found.epoch, found.last);
    }
    if (known && found.age !== null) freshness.recognized();
    else freshness.doubted(); // another server, or its data went back
    return known && found.stands;
  }
}
