-- The tables with schemas $1 and names $2, each with the table that it is a partition of, if it is one.
select
    n.nspname as schema, c.relname as name, c.relkind::text as kind,
    rn.nspname as root_schema, r.relname as root_name
from unnest($1::text[], $2::text[]) as wanted (schema, name)
join pg_catalog.pg_namespace as n on n.nspname = wanted.schema
join pg_catalog.pg_class as c on c.relnamespace = n.oid and c.relname = wanted.name
join pg_catalog.pg_class as r on r.oid = coalesce(pg_catalog.pg_partition_root(c.oid), c.oid)
join pg_catalog.pg_namespace as rn on rn.oid = r.relnamespace
where c.relpersistence <> 't' and n.nspname not in ('pg_catalog', 'information_schema', 'pg_toast', 'unstale')
