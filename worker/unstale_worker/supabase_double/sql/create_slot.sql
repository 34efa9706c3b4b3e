-- A temporary slot: it goes with the session.
select pg_catalog.pg_create_logical_replication_slot($1::name, 'pgoutput', true)
