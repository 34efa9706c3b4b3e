"""The shared tier: values, leases and the log in Redis, one Lua script per atomic operation."""
