"""The leading worker: leadership, and the loop from reading changes to applying invalidations."""
