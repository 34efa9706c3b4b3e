/** Reads values in Redis, and decides what may be answered and kept. */

import { contentOf, type Content } from "./contents.js";
import { RedisUnavailable } from "./errors.js";
import type { Freshness } from "./freshness.js";
import type { LocalState } from "./local-state.js";
import type { Logger } from "./logger.js";
import { record } from "./names.js";
import { shapeOf, type KnownRules } from "./rules.js";

/** Sends several commands in one trip. */
export interface Pipeline {
  commands(...all: readonly (readonly (string | number)[])[]): Promise<unknown[]>;
}

export class Reads {
  constructor(
    private readonly redis: Pipeline,
    private readonly local: LocalState,
    private readonly freshness: Freshness,
    private readonly rules: KnownRules,
    private readonly logger: Logger,
  ) {}

  /** Return the JSON that the near cache holds under all these tags and may answer with, or null. */
  near(key: string, tags: ReadonlySet<string>): string | null {
    if (!this.freshness.attached) return null;
    const entry = this.local.near.read(key);
    if (entry === null) return null;
    for (const tag of tags) if (!entry.tags.has(tag)) return null;
    return entry.json;
  }

  /** Return the JSON that stands in Redis and may be answered, or null; keep a copy if that is allowed. */
  async redisValue(key: string, tags: ReadonlySet<string>): Promise<string | null> {
    const { freshness, local } = this;
    if (!freshness.believesRedis) return null;
    const { doubts } = freshness;
    const read = local.inFlight.open(key, tags); // before the read is sent
    try {
      const asksLife = this.rules.of(key).asksLife;
      const records = [...tags].map(record);
      const replies = await this.redis.commands(
        ...(asksLife ? [["PTTL", key]] : []), // first, so that it is never the life of a later value
        ["GET", key],
        ...(records.length > 0 ? [["MGET", ...records]] : []),
      );
      const life = asksLife ? seconds(replies.shift() as number) : null;
      const [data, versions] = replies as [Buffer | null, (Buffer | null)[] | undefined];
      const content = contentOf(data);
      const exact = await this.valid(key, content, tags, versions ?? []);
      if (exact === null || freshness.doubts !== doubts || !freshness.believesRedis) return null;
      const { json, hidesItsLife } = content as Extract<Content, { json: string }>;
      if (!readable(json)) return null; // another program has written the key
      this.rules.warnOfNoOwner(key, tags);
      const near = this.rules.secondsNear(key, hidesItsLife, life);
      if (exact && near !== null) local.keep(read, json, near, freshness.trustedUntil);
      return json;
    } catch (error) {
      if (error instanceof RedisUnavailable) return null;
      throw error;
    } finally {
      local.inFlight.close(read);
    }
  }

  /**
   * Return null if the content is no valid value for a reader of these tags, and else true if it has exactly these
   * tags: only then does a message about one of them reach the copy and the read.
   *
   * The records are read after the value. No version comes again, so if they hold the value's versions now, they
   * held them when it was read.
   */
  private async valid(
    key: string,
    content: Content,
    tags: ReadonlySet<string>,
    versions: readonly (Buffer | null)[],
  ): Promise<boolean | null> {
    if (content.is === "value") return tags.size === 0 ? true : null;
    if (content.is !== "tagged") {
      if (content.is === "sealed") this.warnOfSealed(key);
      return null;
    }
    for (const tag of tags) if (!content.tags.has(tag)) return null;
    const exact = content.tags.size === tags.size;
    const names = exact ? [...tags] : [...content.tags.keys()];
    const found = exact
      ? versions
      : ((await this.redis.commands(["MGET", ...names.map(record)]))[0] as (Buffer | null)[]);
    const stands = names.every((name, at) => found[at]?.toString("latin1") === content.tags.get(name));
    return stands ? exact : null;
  }

  private warnOfSealed(key: string): void {
    this.logger.once(
      `sealed ${shapeOf(key)}`,
      `the value of ${JSON.stringify(key)} in Redis is compressed or encrypted, which this version cannot read: it ` +
        "counts as missing",
    );
  }
}

/** Return a reply of PTTL in seconds; infinite: it never expires. */
function seconds(milliseconds: number): number {
  return milliseconds === -1 ? Infinity : Math.max(0, milliseconds) / 1000;
}

function readable(json: string): boolean {
  try {
    JSON.parse(json);
    return true;
  } catch {
    return false;
  }
}
