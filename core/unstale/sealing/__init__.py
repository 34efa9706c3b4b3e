"""Compression and encryption of values on their way to Redis."""
