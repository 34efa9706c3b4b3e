"""Makes invalidated keys new: claims what is due, loads it, fills it under the lease of a loader."""
