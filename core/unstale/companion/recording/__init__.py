"""Records, in tests and development, which tables the loaders of cached values read.

Off unless `unstale learn`, the pytest plugin, or `recorder.start` turned it on. Pools then open other
connections; a pool that was opened without it has none of this code on its path.
"""
