-- The bodies of all functions that are not the system's, by qualified name: for a look at what a call may run.
select n.nspname || '.' || p.proname as name, p.prosrc as source
from pg_catalog.pg_proc p
join pg_catalog.pg_namespace n on n.oid = p.pronamespace
join pg_catalog.pg_language l on l.oid = p.prolang
where n.nspname not in ('pg_catalog', 'information_schema') and l.lanname in ('sql', 'plpgsql')
