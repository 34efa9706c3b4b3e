"""What can be seen of a worker: status, metrics, HTTP."""
