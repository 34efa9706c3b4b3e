-- Whether this server is a standby of the database $2, as unstale.database() names it, and has replayed WAL up to $1.
-- Read from the catalogs, because a loader's role has no rights in the schema unstale. A connection to another database
-- of the same standby finds another outbox or none.
-- The timeline is that of its last restartpoint: after a failover of the primary a standby is refused until it has
-- made one on the new timeline, and one that still follows the old primary is refused for good.
select pg_catalog.pg_is_in_recovery()
    and coalesce(pg_catalog.pg_last_wal_replay_lsn() >= $1::text::pg_catalog.pg_lsn, false)
    and coalesce((
        select s.system_identifier || ':' || c.timeline_id
            || ':' || pg_catalog.split_part(f.file, '/', -2) || ':' || pg_catalog.split_part(f.file, '/', -1)
            = $2::text
        from pg_catalog.pg_control_system() as s, pg_catalog.pg_control_checkpoint() as c,
            pg_catalog.pg_class as o
            join pg_catalog.pg_namespace as n on n.oid = o.relnamespace and n.nspname = 'unstale',
            pg_catalog.pg_relation_filepath(o.oid) as f(file)
        where o.relname = 'outbox'
    ), false)
