-- Every table that can be watched, with its columns; not those of the system.
select n.nspname::text as schema, c.relname::text as table, array_agg(a.attname::text) as columns
from pg_catalog.pg_class c
join pg_catalog.pg_namespace n on n.oid = c.relnamespace
join pg_catalog.pg_attribute a on a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped
where c.relkind in ('r', 'p', 'f', 'v', 'm') and n.nspname not in ('pg_catalog', 'information_schema', 'pg_toast')
group by c.oid, n.nspname, c.relname
