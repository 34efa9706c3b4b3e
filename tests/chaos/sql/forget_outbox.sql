delete from unstale.outbox where xid = pg_catalog.pg_current_xact_id()
