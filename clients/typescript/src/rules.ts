/** The published rules: which keys changes in the database invalidate, and how long near copies may live. */

import { MessageError } from "./errors.js";
import { glob, matchesSegments } from "./globs.js";
import { KeyForm, usable } from "./key-forms.js";
import type { Logger } from "./logger.js";
import { object, strings, text, VERSION, type Fields } from "./messages.js";
import { isRecord, record, TAG } from "./names.js";

/** Longest key in UTF-8. */
const MAX_KEY_BYTES = 1024;
/** Seconds for which a pattern counts as former: no deploy takes longer than a week. */
const FORMER_SECONDS = 7 * 86_400;
/** Seconds that an owned value is kept if no `[ttl]` names its key: who stored it may have another default. */
const UNPUBLISHED_TTL = 60;
/** Keys whose rules are remembered. */
const REMEMBERED = 10_000;

type Pairs = readonly (readonly [string, number])[];

export class PublishedRules {
  constructor(
    readonly hash = "",
    readonly patterns: readonly string[] = [],
    readonly ttl: Pairs = [],
    readonly forms: readonly KeyForm[] = [],
    readonly former: Pairs = [],
  ) {}

  /** Decode the JSON of `{unstale:0}:rules`; throws `MessageError`. */
  static decode(payload: Uint8Array): PublishedRules {
    const data = object(payload);
    if (data["v"] !== VERSION) {
      throw new MessageError("the published rules are of a version that this release cannot read");
    }
    return new PublishedRules(
      text(data, "hash", 128),
      strings(data, "patterns"),
      pairs(data, "ttl"),
      forms(data),
      data["former"] === undefined ? [] : pairs(data, "former"),
    );
  }

  /** Return true if a rule owns the key, so that changes in the database invalidate it. */
  owns(key: string): boolean {
    return this.matching(key).length > 0;
  }

  /** Return the spelling in which changes remove the key, which a pattern matches; null: no row can have it. */
  rightKey(key: string): string | null {
    const found: string[] = [];
    for (const pattern of this.matching(key)) {
      const own = this.forms.filter((form) => form.pattern === pattern);
      if (own.length === 0) return key;
      found.push(...own.map((form) => form.right(key)).filter((right) => right !== null));
    }
    return found.includes(key) ? key : (found[0] ?? null);
  }

  /** Return the pattern by which a rule owned the key until lately. `now` is Unix time in seconds. */
  lostOwner(key: string, now: number): string | null {
    const data = Buffer.from(key);
    for (const [pattern, since] of this.former) {
      if (now - since < FORMER_SECONDS && glob(pattern).matches(data)) {
        const owned = this.matching(key).some((other) => matchesSegments(other, key));
        return owned && this.rightKey(key) !== null ? null : pattern;
      }
    }
    return null;
  }

  /** Return the seconds of the first `[ttl]` pattern that matches. */
  ttlOf(key: string): number | null {
    const data = Buffer.from(key);
    return this.ttl.find(([pattern]) => glob(pattern).matches(data))?.[1] ?? null;
  }

  /** Return the patterns that match; those of tags match the records of tags only. */
  private matching(key: string): readonly string[] {
    const data = Buffer.from(key);
    const ofTag = isRecord(key);
    return this.patterns.filter((pattern) => isRecord(pattern) === ofTag && glob(pattern).matches(data));
  }
}

/** The rules of one key. */
export interface KeyRules {
  readonly owned: boolean;
  /** Seconds that a value without a shorter life of its own is kept near. */
  readonly near: number;
  /** Seconds of a value that never expires in Redis. */
  readonly ttl: number;
  /** Most seconds that any value of the key is kept: few if a rule owned it until lately. */
  readonly most: number;
  /** True if a read has to ask how long the value lives in Redis. */
  readonly asksLife: boolean;
}

/** The rules as this process knows them. */
export class KnownRules {
  private rules = new PublishedRules();
  private readonly known = new Map<string, KeyRules>();

  constructor(
    private readonly read: () => Promise<Buffer | null>,
    private readonly options: {
      readonly defaultTtl: number;
      readonly detachedTtl: number;
      readonly reserved: string;
      readonly logger: Logger;
    },
  ) {}

  /** Hash of the known rules. If a watermark has another one, they must be loaded. */
  get hash(): string {
    return this.rules.hash;
  }

  /** Read the rules; throws `RedisUnavailable`. Rules that cannot be read, or that Redis lost, change nothing. */
  async load(): Promise<void> {
    const payload = await this.read();
    if (payload === null) return;
    try {
      this.adopt(PublishedRules.decode(payload));
    } catch (error) {
      if (!(error instanceof MessageError)) throw error;
      this.options.logger.once(
        "rules",
        `the published rules cannot be read; the known rules stay in force: ${error.message}`,
      );
    }
  }

  /** Put these rules in force. */
  adopt(rules: PublishedRules): void {
    this.rules = rules;
    this.known.clear();
  }

  /** Throw TypeError or RangeError if the key cannot be cached, or if changes remove another spelling of it. */
  check(key: string): void {
    if (typeof key !== "string") throw new TypeError(`a cache key is a string, and this one is a ${typeof key}`);
    if (this.known.has(key)) return;
    const size = Buffer.byteLength(key);
    if (size < 1 || size > MAX_KEY_BYTES) {
      throw new RangeError(
        `a cache key is 1 to ${MAX_KEY_BYTES} bytes long, and ${JSON.stringify(key.slice(0, 60))} has ${size}`,
      );
    }
    const reserved = [this.options.reserved, TAG].find((beginning) => key.startsWith(beginning));
    if (reserved !== undefined) {
      throw new RangeError(
        `cache key ${JSON.stringify(key)} begins with ${JSON.stringify(reserved)}, which unstale reserves; ` +
          "use another key",
      );
    }
    if (/\p{Surrogate}/u.test(key)) {
      throw new RangeError(`cache key ${JSON.stringify(key)} contains a lone surrogate, which Redis cannot store`);
    }
    const right = this.rules.owns(key) ? this.rules.rightKey(key) : null;
    if (right !== null && right !== key) {
      throw new RangeError(
        `cache key ${JSON.stringify(key)} is owned by a rule, but a change would remove it only as ` +
          `${JSON.stringify(right)}; use that spelling`,
      );
    }
  }

  /** Return the rules of the key. */
  of(key: string): KeyRules {
    return this.known.get(key) ?? this.remember(key, this.lookUp(key));
  }

  /** Say once for keys like this one that no change invalidates a copy of it, unless a rule owns one of the tags. */
  warnOfNoOwner(key: string, tags: ReadonlySet<string>): void {
    if (this.rules.hash === "" || this.of(key).most < Infinity) return;
    if (this.of(key).owned || [...tags].some((tag) => this.of(record(tag)).owned)) return;
    this.options.logger.once(
      `owner ${shapeOf(key)}`,
      `no rule owns ${JSON.stringify(key)}, so no change in the database invalidates it: it is kept until it ` +
        "expires in Redis",
    );
  }

  /**
   * Return for how long a value that Redis holds may be kept near; null: not at all, as the next read has to ask
   * for its life first.
   *
   * @param life Seconds that the value lives in Redis, if that was asked; infinite: it never expires.
   */
  secondsNear(key: string, hidesItsLife: boolean, life: number | null): number | null {
    const known = this.of(key);
    if (life === null) {
      if (known.asksLife || hidesItsLife) {
        this.remember(key, { ...known, asksLife: true });
        return null;
      }
      return Math.min(known.near, known.most);
    }
    return Math.min(life === Infinity ? known.ttl : life, known.most);
  }

  private lookUp(key: string): KeyRules {
    const { defaultTtl, detachedTtl, logger } = this.options;
    const former = this.rules.lostOwner(key, Date.now() / 1000);
    const owned = this.rules.owns(key) && former === null && this.rules.rightKey(key) !== null;
    if (former !== null) {
      logger.once(
        `former ${shapeOf(key)}`,
        `the rules no longer own ${JSON.stringify(key)}: ${JSON.stringify(former)} was removed from them, so no ` +
          `change invalidates it any more. It is kept for at most ${detachedTtl} s`,
      );
    }
    const ttl = this.rules.ttlOf(key);
    return {
      owned,
      near: ttl ?? Math.min(defaultTtl, UNPUBLISHED_TTL),
      ttl: ttl ?? defaultTtl,
      most: former === null ? Infinity : detachedTtl,
      asksLife: !owned,
    };
  }

  private remember(key: string, rules: KeyRules): KeyRules {
    this.known.set(key, rules);
    if (this.known.size > REMEMBERED) this.known.delete(this.known.keys().next().value as string);
    return rules;
  }
}

/** Return the key without what tells it from others like it. */
export function shapeOf(key: string): string {
  return key.replace(/[0-9]+/g, "#");
}

function pairs(data: Fields, name: string): Pairs {
  const found = data[name];
  const right = (pair: unknown) =>
    Array.isArray(pair) && pair.length === 2 && typeof pair[0] === "string" && pair[1] > 0 && pair[1] < 1e10;
  if (!Array.isArray(found) || !found.every(right)) {
    throw new MessageError(`the published rules' ${name} is not made of [pattern, seconds]`);
  }
  return found as [string, number][];
}

function forms(data: Fields): readonly KeyForm[] {
  const found = data["forms"] === undefined ? [] : data["forms"];
  const texts = (list: unknown) => Array.isArray(list) && list.every((text) => typeof text === "string");
  const right = (form: unknown) =>
    Array.isArray(form) &&
    form.length === 3 &&
    typeof form[0] === "string" &&
    texts(form[1]) &&
    texts(form[2]) &&
    form[1].length === form[2].length + 1;
  if (!Array.isArray(found) || !found.every(right)) {
    throw new MessageError("the published rules' forms is not made of [pattern, literals, kinds]");
  }
  return usable(found.map(([pattern, literals, kinds]) => new KeyForm(pattern, literals, kinds)));
}
