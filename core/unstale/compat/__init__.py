"""The `redis_cache` interface of an existing system, so that its code runs unchanged."""
