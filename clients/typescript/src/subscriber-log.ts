/** Log messages of the subscriber: attached, detached, and problems, which are logged once. */

import type { Freshness } from "./freshness.js";
import type { Logger } from "./logger.js";

/** No PONG for `maxSilence`; the connection is replaced. */
export class Silence extends Error {}

/** The connection answers, but there is no watermark: no worker, or this server is no longer the primary. */
export class NoWatermark extends Silence {}

/** Another epoch or run began, or the log went back. This server may have been demoted: a new connection asks. */
export class Moved extends Error {}

export class SubscriberLog {
  private wasAttached = false;
  private first = true;

  constructor(
    private readonly logger: Logger,
    private readonly freshness: Freshness,
    private readonly place: string,
  ) {}

  attached(): void {
    if (this.wasAttached || !this.freshness.attached) return;
    this.wasAttached = true;
    this.logger.info(`attached to ${this.place}: staleness ${this.freshness.staleness.toFixed(3)} s`);
  }

  /** Say that watermarks have stopped. */
  silent(maxSilence: number): void {
    if (!this.wasAttached || this.freshness.attached) return;
    this.wasAttached = false;
    this.logger.warn(`detached: no watermark for ${maxSilence} s. Is the worker running? ${this.sameNames}`);
  }

  noEpoch(): void {
    this.logger.once(
      "no watermark",
      `detached: connected to ${this.place}, but no worker has led there. Start \`unstale worker\`. ${this.sameNames}`,
    );
  }

  /** Say why the connection ended. */
  lost(error: unknown): void {
    const what = this.first ? "cannot reach" : "lost";
    if (error instanceof Moved) {
      this.logger.info(`another epoch at ${this.place}: reconnecting`);
    } else if (error instanceof NoWatermark && !this.wasAttached) {
      this.logger.once(
        "no watermark",
        `detached: connected to ${this.place}, but no watermark came. Is the worker running? ${this.sameNames}`,
      );
    } else if (this.wasAttached || this.first) {
      const text = error instanceof Error ? error.message || error.name : String(error);
      this.logger.warn(`detached: ${what} Redis at ${this.place} (${text})`);
    }
    this.wasAttached = this.first = false;
  }

  unreadable(where: string, error: Error): void {
    this.logger.once(`unreadable ${where}`, `a message on ${where} cannot be read: ${error.message}`);
  }

  unknownVersion(version: unknown): void {
    this.logger.once(
      "version",
      `messages of version ${JSON.stringify(version)} cannot be read: upgrade this client`,
    );
  }

  unproved(error: Error): void {
    this.logger.once(
      "proof",
      "watermarks are not compared with the state, because this user of redisUrl may not read it " +
        `(${error.message}): grant HGET and TIME, as docs/security.md says`,
    );
  }

  private get sameNames(): string {
    return "It needs the same namespace, and the same database number in its REDIS_URL.";
  }
}
