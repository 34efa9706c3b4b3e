"""``unstale audit``: compares cached values with the database, in a process of its own; writes nothing."""
