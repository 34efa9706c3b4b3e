"""Makes invalidated keys new: claims what is due, loads it, fills it under the lease of a loader."""

from unstale_worker.refresh.refresher import Refresher
from unstale_worker.refresh.tally import Tally

__all__ = ["Refresher", "Tally"]
