-- Transactions that wait for another one's NOTIFY: from its commit on, until its flush, one holds this lock, of all databases.
select count(*) from pg_catalog.pg_locks as l
where l.locktype = 'object' and l.classid = 'pg_catalog.pg_database'::pg_catalog.regclass and l.objid = 0 and not l.granted
