"""Retry, backoff, logging and event loop: what all other folders of the worker may use."""
