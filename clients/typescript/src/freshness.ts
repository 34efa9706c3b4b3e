/**
 * The owner of trust: what this process has processed, and which tiers may answer.
 *
 * Trust is two moments, so that a read only compares them with the clock. They and `staleness` count from the
 * sending of the last PING whose PONG came before the newest watermark: the watermark was published after that,
 * however long it waited in a buffer. A new connection begins with the watermark that its replay finds in the
 * state, and counts from the sending of the replay, by the clock of Redis.
 */

import type { LocalState } from "./local-state.js";
import type { Watermark } from "./messages.js";

export class Freshness {
  /** The followed epoch; null until a live one is found. */
  epoch: string | null = null;
  /** Id of the newest log entry that was processed. */
  last = 0;
  /** The newest watermark that counted. */
  watermark: Watermark | null = null;
  /** Moment until which the near cache may answer. */
  trustedUntil = -Infinity;
  /** Moment until which values in Redis may be used. */
  believedUntil = -Infinity;
  /** How often everything was doubted: an answer to a command that was sent before is not used. */
  doubts = 0;

  private readonly pings = new Map<number, number>();
  private pingNumber = 0;
  private ponged = -Infinity;
  private provedAt = -Infinity;
  private mutedUntil = -Infinity;
  private freshAsOf = -Infinity;
  private notBefore = -Infinity;
  private redisKnown = false;
  private byState = false;

  constructor(
    private readonly local: LocalState,
    private readonly now: () => number,
    private readonly maxSilence: number,
    private readonly detachedTtl: number,
  ) {}

  /** True if the near cache may answer. */
  get attached(): boolean {
    return this.now() < this.trustedUntil;
  }

  /** True if values in Redis may be used. Ask again when a reply arrives. */
  get believesRedis(): boolean {
    return this.now() < this.believedUntil;
  }

  /** Upper bound in seconds on how old an answer can be; infinite while detached. */
  get staleness(): number {
    const now = this.now();
    return now < this.trustedUntil ? now - this.freshAsOf : Infinity;
  }

  // --- the log

  /** Every entry up to `last` of this epoch has been processed. */
  advanced(last: number): void {
    this.last = last;
  }

  /** Drop everything and continue from `last` of `epoch`; null: wait for a live epoch. */
  adopted(epoch: string | null, last: number): void {
    this.local.flush();
    this.epoch = epoch;
    this.last = last;
    this.watermark = null;
    this.freshAsOf = -Infinity;
    this.doubted();
  }

  /** Redis holds the followed log, no shorter than before, of the same run, with a watermark of its epoch. */
  recognized(): void {
    this.redisKnown = true;
    this.trust(this.trustedUntil);
  }

  /** Trust neither tier: Redis may hold older data than this process has processed. */
  doubted(): void {
    this.doubts += 1;
    this.redisKnown = false;
    this.detached();
  }

  /** Do not trust the near cache until the next watermark. */
  detached(): void {
    this.trust(Math.min(this.trustedUntil, this.now()));
  }

  /** Drop everything and stay detached for `maxSilence`: a message has an unknown version. */
  muted(): void {
    this.local.flush();
    this.detached();
    this.mutedUntil = this.now() + this.maxSilence;
  }

  // --- watermarks

  /** Process a watermark that `last` has reached; return true if it counts. */
  heard(watermark: Watermark): boolean {
    const heard = Math.min(this.ponged, this.provedAt);
    if (heard === -Infinity || this.now() < this.mutedUntil || this.unproved) return false;
    const asOf = this.ponged - watermark.ageMs / 1000;
    if (asOf < this.notBefore) return false;
    this.redisKnown = true;
    if (this.byState) {
      this.byState = false; // by the clock of Redis, which may have been set back
      this.freshAsOf = -Infinity;
    }
    this.note(asOf, heard);
    this.watermark = watermark;
    return true;
  }

  /**
   * Process the newest watermark as a replay has read it from the state; return true if it counts.
   *
   * @param age Seconds since the worker began the read that it announced, by the clock of Redis.
   * @param sent When this process sent the replay.
   * @param subscribed When it sent the subscription, which was confirmed before that.
   */
  shown(age: number, sent: number, subscribed: number): boolean {
    if (!(age >= 0 && age < Infinity)) return false;
    this.proved(sent - age);
    if (this.now() < this.mutedUntil || this.unproved) return false;
    this.redisKnown = this.byState = true;
    this.note(sent - age, Math.min(subscribed, sent - age));
    return true;
  }

  /**
   * The state says that the worker published a watermark at the moment `at` or later. Only a user that may write
   * values can change that. -Infinity: nothing is known yet; Infinity: this process may not read it.
   */
  proved(at: number): void {
    this.provedAt = Number.isFinite(at) ? Math.max(this.provedAt, at) : at;
  }

  /** True if the state does not prove that the worker published within `maxSilence`. */
  get unproved(): boolean {
    return this.now() >= this.provedAt + this.maxSilence;
  }

  private note(asOf: number, heard: number): void {
    // Never go back: the watermark of a slow read may arrive after that of a faster one.
    this.freshAsOf = Math.max(this.freshAsOf, asOf);
    this.trust(heard + this.maxSilence);
  }

  private trust(moment: number): void {
    this.trustedUntil = moment;
    this.believedUntil = this.redisKnown ? moment + this.detachedTtl : moment;
  }

  // --- the pub/sub connection

  /** The connection is lost. It `answered` if it was closed only because watermarks were missing. */
  lost(answered: boolean): void {
    if (answered) this.detached();
    else this.doubted();
    this.pings.clear();
    this.ponged = -Infinity;
  }

  /**
   * A subscription was sent at the moment `at`. It is doubtful if a log was followed before and the server does not
   * tell its run: then only a watermark whose read began later counts.
   */
  connected(at: number, doubtful: boolean): void {
    this.notBefore = doubtful ? at : -Infinity;
  }

  /** A PING is sent now; return its number. */
  ping(): number {
    this.pingNumber += 1;
    this.pings.set(this.pingNumber, this.now());
    return this.pingNumber;
  }

  /** Everything that Redis published before that PING has arrived. */
  pong(number: number): void {
    const sent = this.pings.get(number);
    if (sent === undefined) return;
    this.ponged = sent;
    for (const older of [...this.pings.keys()]) if (older <= number) this.pings.delete(older);
  }

  /** Seconds since the oldest PING without a PONG was sent; 0 if there is none. */
  get unanswered(): number {
    const [oldest] = this.pings.values();
    return oldest === undefined ? 0 : this.now() - oldest;
  }
}
