-- The tables that this transaction has locked.
select n.nspname as schema, c.relname as name
from pg_catalog.pg_locks as l
join pg_catalog.pg_class as c on c.oid = l.relation
join pg_catalog.pg_namespace as n on n.oid = c.relnamespace
where l.locktype = 'relation' and l.pid = pg_catalog.pg_backend_pid() and c.relkind in ('r', 'p', 'm', 'f')
    and l.database = (select d.oid from pg_catalog.pg_database as d where d.datname = pg_catalog.current_database())
