"""Loaders written in Python: called in the worker's own process or in refresh workers."""
