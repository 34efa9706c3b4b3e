"""The read path: near cache, single flight, Redis and lease, loader, fill."""
