/** Errors of this client. */

/** A message, a log entry or the published rules cannot be read. */
export class MessageError extends Error {
  override readonly name = "MessageError";
}

/** Redis did not answer, or refused the command. Calls of the cache never throw it: they go on without Redis. */
export class RedisUnavailable extends Error {
  override readonly name = "RedisUnavailable";
}

/** The option `redisUrl`, or another one, cannot be used. */
export class ConfigurationError extends Error {
  override readonly name = "ConfigurationError";
}

/** The transaction of a token was not applied in time. */
export class WaitTimeout extends Error {
  override readonly name = "WaitTimeout";
}

/** The cache is closed. */
export class CacheClosed extends Error {
  override readonly name = "CacheClosed";

  constructor() {
    super("the cache is closed");
  }
}
