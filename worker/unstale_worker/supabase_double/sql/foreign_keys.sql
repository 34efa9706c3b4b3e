-- All foreign keys outside the system's schemas, without those that partitions inherit.
select
    k.conname as name,
    n.nspname as schema,
    c.relname as table,
    array(
        select a.attname from unnest(k.conkey) with ordinality as u (number, position)
        join pg_catalog.pg_attribute as a on a.attrelid = k.conrelid and a.attnum = u.number
        order by u.position
    ) as columns,
    tn.nspname as target_schema,
    t.relname as target,
    array(
        select a.attname from unnest(k.confkey) with ordinality as u (number, position)
        join pg_catalog.pg_attribute as a on a.attrelid = k.confrelid and a.attnum = u.number
        order by u.position
    ) as target_columns,
    exists (
        select from pg_catalog.pg_constraint as u
        where u.conrelid = k.conrelid and u.contype in ('p', 'u') and u.conkey @> k.conkey and u.conkey <@ k.conkey
    ) as is_unique
from pg_catalog.pg_constraint as k
join pg_catalog.pg_class as c on c.oid = k.conrelid
join pg_catalog.pg_namespace as n on n.oid = c.relnamespace
join pg_catalog.pg_class as t on t.oid = k.confrelid
join pg_catalog.pg_namespace as tn on tn.oid = t.relnamespace
where k.contype = 'f' and k.conparentid = 0 and n.nspname not in ('pg_catalog', 'information_schema')
