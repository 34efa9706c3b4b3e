-- Whether this server is a standby of the database $2 (system_identifier:timeline) and has replayed WAL up to $1.
-- The timeline is that of its last restartpoint: after a failover of the primary a standby is refused until it has
-- made one on the new timeline, and one that still follows the old primary is refused for good.
select pg_catalog.pg_is_in_recovery()
    and coalesce(pg_catalog.pg_last_wal_replay_lsn() >= $1::text::pg_catalog.pg_lsn, false)
    and (
        select s.system_identifier || ':' || c.timeline_id = $2::text
        from pg_catalog.pg_control_system() as s, pg_catalog.pg_control_checkpoint() as c
    )
