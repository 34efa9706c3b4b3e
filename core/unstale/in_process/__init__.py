"""Agents without Redis: the outbox is followed inside the process."""
