"""The leading worker: leadership, and the loop from changes read to invalidations applied."""
