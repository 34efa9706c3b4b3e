"""Fan-out queries: one changed row, many keys."""
