"""Direct writes by the caller: set, delete and invalidate by pattern."""
