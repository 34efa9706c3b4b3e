"""The values inside this process, and the reads in flight that an invalidation affects. Pure: no I/O."""
