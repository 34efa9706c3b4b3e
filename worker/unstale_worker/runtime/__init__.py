"""Retry, backoff, logging, event loop: what the other folders need from Python and the machine."""
