"""The worker's side of Redis: the applier, its Lua scripts, key scans and the stored state."""
