"""A worker's state for people and monitoring: health, status, metrics, HTTP."""
