"""The cache for code that does not await: Django, Flask, Celery, RQ, scripts and notebooks."""

from unstale.sync.cache import Cache
from unstale.sync.lock import Lock
from unstale.sync.subscription import Subscription

__all__ = ["Cache", "Lock", "Subscription"]
