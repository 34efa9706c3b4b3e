export { Cache, type CacheOptions, type ReadOptions, type Stats } from "./cache.js";
export { CacheClosed, ConfigurationError, WaitTimeout } from "./errors.js";
export type { LogSink } from "./logger.js";
export type { CacheEvent, Invalidated, Reset } from "./subscriptions.js";
