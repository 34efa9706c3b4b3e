"""The copies inside this process, and the reads in progress that an invalidation must reach. Pure: no I/O."""
