"""The worker inside an agent that has no Redis."""
