"""``unstale replay``: announce earlier changes of the outbox again."""
