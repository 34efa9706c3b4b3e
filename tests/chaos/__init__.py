"""Random faults against the whole system in use; afterwards every read is held against the promises.

``python -m chaos --minutes 30 --seed 7 --json`` with ``tests`` on the import path: ``make chaos``.
"""
