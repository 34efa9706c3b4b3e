"""Follows the outbox inside an agent that has no Redis."""
