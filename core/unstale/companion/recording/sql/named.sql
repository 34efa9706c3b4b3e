-- The tables and views that the names $1 mean under the current search_path.
select n.nspname as schema, c.relname as name, c.relkind::text as kind
from unnest($1::text[]) as wanted (name)
join pg_catalog.pg_class as c on c.oid = pg_catalog.to_regclass(wanted.name)
join pg_catalog.pg_namespace as n on n.oid = c.relnamespace
where c.relkind in ('r', 'p', 'm', 'f', 'v')
