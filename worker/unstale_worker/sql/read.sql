-- Read one page of the outbox after a position, as one row; see unstale.read in supabase/migrations.
select (b).database, (b).snapshot::text, (b).position::text, (b).more, (b).last_xid::text::bigint, (b).last_id,
       (b).insert_lsn::text, (b).flushed_lsn::text, (b).covered, (b).current_xmax::text::bigint, (b).entries,
       (b).xids, (b).operations
  from (select unstale.read($1::text::pg_snapshot, $2::text::pg_snapshot, $3::text::xid8, $4::bigint, $5, $6) as b offset 0) as page
