/** Reads the log and the state over a connection of its own, so that a long replay delays no reader of values. */

import { createHash } from "node:crypto";

import type { Clock } from "./clock.js";
import { RedisUnavailable } from "./errors.js";
import { decodeLogEntry, type Invalidation } from "./messages.js";
import type { Names } from "./names.js";
import { REPLAY } from "./replay-script.js";

/** Entries in one replay; a client that is further behind drops everything, which is cheaper. */
const MOST_ENTRIES = 1_000;
/** A replay behind this id returns epoch and newest id, and no entries. */
export const NEWEST = Number.MAX_SAFE_INTEGER;
/** Seconds by which the state's time, in whole milliseconds, may lie ahead of the server's clock. */
const CLOCK_STEP = 0.001;
const SHA = createHash("sha1").update(REPLAY).digest("hex");

/** Sends commands to Redis. Replies are Buffers, numbers, null and arrays of these. */
export interface Commands {
  /** Send one command; throws `RedisUnavailable`, or `RefusedCommand`. */
  command(name: string, ...args: (string | number)[]): Promise<unknown>;
  /** True after the connection failed: the next command is refused at once, and not sent. */
  readonly pausing: boolean;
}

/** Redis answered with an error. */
export class RefusedCommand extends RedisUnavailable {
  /** True if the user lacks a right. */
  get notPermitted(): boolean {
    return this.message.startsWith("NOPERM");
  }
}

/** Result of one atomic read of the log. */
export interface Replay {
  /** The current epoch; null: there is no position, so nothing may be trusted. */
  readonly epoch: string | null;
  /** Id of the newest entry. */
  readonly last: number;
  /** True if `entries` are all those behind the id that was asked for. */
  readonly complete: boolean;
  readonly entries: readonly Invalidation[];
  /** True if the epoch was begun by the server that answered, in its present run. */
  readonly stands: boolean;
  /** False if that cannot be told, because scripts of this user may not call INFO. */
  readonly tellsRun: boolean;
  /** Seconds since the newest watermark's read began, by the clock of Redis; null: none in this epoch and run. */
  readonly age: number | null;
  /** When this process sent the read. */
  readonly sent: number;
  /** Hash of the rules in force. */
  readonly rules: string;
}

export class LogReader {
  constructor(
    readonly names: Names,
    private readonly redis: Commands,
    private readonly clock: Clock,
  ) {}

  get pausing(): boolean {
    return this.redis.pausing;
  }

  /** Return epoch, newest id, and the entries behind `after`; throws `MessageError` if one cannot be read. */
  async replay(after: number): Promise<Replay> {
    const sent = this.clock.now();
    const reply = (await this.script(after)) as [
      Buffer | null,
      number,
      number,
      [Buffer, Buffer[]][],
      number,
      Buffer,
      Buffer,
    ];
    const [epoch, last, complete, entries, stands, age, rules] = reply;
    if (epoch === null) {
      const nothing = { complete: false, entries: [], stands: false, tellsRun: true, age: null, rules: "" };
      return { epoch: null, last, sent, ...nothing };
    }
    const known = epoch.toString();
    return {
      epoch: known,
      last,
      complete: complete === 1,
      entries: entries.map(([id, fields]) =>
        decodeLogEntry(known, Number(id.toString().split("-")[0]), fields[1] as Buffer),
      ),
      stands: stands === 1,
      tellsRun: stands >= 0,
      age: age.length === 0 ? null : Number(age.toString().replace("inf", "Infinity")) / 1000,
      sent,
      rules: rules.toString(),
    };
  }

  /** Return the published rules as they stand in Redis. */
  async rules(): Promise<Buffer | null> {
    return (await this.redis.command("GET", this.names.rules)) as Buffer | null;
  }

  /** Return the identity of the database that the worker follows. */
  async database(): Promise<string | null> {
    const found = (await this.redis.command("HGET", this.names.state, "database")) as Buffer | null;
    return found === null ? null : found.toString();
  }

  /** Return the seconds since the worker last published a watermark, by the clock of Redis; null: unknown. */
  async watermarkAge(): Promise<number | null> {
    const [written, time] = (await Promise.all([
      this.redis.command("HGET", this.names.state, "applied_at"),
      this.redis.command("TIME"),
    ])) as [Buffer | null, [Buffer, Buffer]];
    if (written === null || !/^[0-9]+$/.test(written.toString())) return null;
    const age = Number(time[0]) + Number(time[1]) / 1e6 - Number(written) / 1e3;
    return age >= -CLOCK_STEP ? age : null;
  }

  private async script(after: number): Promise<unknown> {
    const args = [2, this.names.state, this.names.log, after, MOST_ENTRIES] as const;
    try {
      return await this.redis.command("EVALSHA", SHA, ...args);
    } catch (error) {
      if (!(error instanceof RefusedCommand) || !error.message.startsWith("NOSCRIPT")) throw error;
      return await this.redis.command("EVAL", REPLAY, ...args);
    }
  }
}
