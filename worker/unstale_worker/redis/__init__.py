"""The worker's access to Redis: the applier, its Lua scripts, key scans and the stored state."""
