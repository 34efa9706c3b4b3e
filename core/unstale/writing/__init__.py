"""Direct writes of the caller: set, delete and invalidate by pattern."""
