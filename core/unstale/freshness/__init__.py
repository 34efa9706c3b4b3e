"""Following the log: trust, staleness, the published rules and tokens."""
