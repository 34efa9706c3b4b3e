-- Columns of relation $2 of schema $1, in order, and whether they belong to the primary key; no row: there is none.
select
    a.attname as name,
    coalesce(a.attnum = any (k.conkey), false) as is_key
from pg_catalog.pg_class as c
join pg_catalog.pg_namespace as n on n.oid = c.relnamespace
join pg_catalog.pg_attribute as a on a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped
left join pg_catalog.pg_constraint as k on k.conrelid = c.oid and k.contype = 'p'
where n.nspname = $1::name and c.relname = $2::name and c.relkind in ('r', 'p', 'v', 'm', 'f')
order by a.attnum
