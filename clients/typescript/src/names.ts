/** Names of unstale's own keys and channel in Redis. No other module builds one. */

/** Beginning of the key of a tag's record, which the tag itself follows; the same in every namespace. */
export const TAG = "unstale:tag:";

export class Names {
  constructor(
    readonly namespace = "unstale",
    /** Number of the Redis database. Pub/sub ignores databases, so the channel's name contains it. */
    readonly database = 0,
  ) {
    if (!/^[A-Za-z0-9_.-]{1,64}$/.test(namespace)) {
      throw new RangeError(
        `namespace ${JSON.stringify(namespace)}: expected 1 to 64 letters, digits, '_', '.' or '-'`,
      );
    }
  }

  /** The common prefix. The braces are a hash tag of Redis Cluster, and 0 is the partition of a single server. */
  get tag(): string {
    return `{${this.namespace}:0}`;
  }

  get state(): string {
    return `${this.tag}:state`;
  }

  get rules(): string {
    return `${this.tag}:rules`;
  }

  get log(): string {
    return `${this.tag}:log`;
  }

  get channel(): string {
    return `${this.tag}:invalidations${this.database ? `:${this.database}` : ""}`;
  }
}

/** Return the key of the record of a tag. */
export function record(tag: string): string {
  return TAG + tag;
}

/** Return true for the key of a tag's record, or a glob that matches only such keys. */
export function isRecord(key: string): boolean {
  return key.startsWith(TAG);
}
