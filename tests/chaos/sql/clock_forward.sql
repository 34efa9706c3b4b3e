-- What the server's clock, set two hours forward, makes of the newest snapshot: everything before it is purged.
delete from unstale.snapshots;
select unstale.record_snapshot(interval '0');
update unstale.snapshots set taken_at = taken_at - interval '2 hours';
select unstale.purge();
