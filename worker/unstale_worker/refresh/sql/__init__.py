"""Loaders that are a row or a query: read by the worker itself, in batches."""
