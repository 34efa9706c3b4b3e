"""What people and monitoring can see of a worker: health, status, metrics, HTTP."""
