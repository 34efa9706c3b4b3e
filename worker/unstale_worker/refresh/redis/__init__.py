"""The refresh set in Redis: pending keys, leases on them, dead letters."""
