"""Agents without Redis: an embedded worker follows the outbox inside the process."""
