-- The other side of the foreign keys of table $1.$2 that have the name $3, or are over the column $3.
select n.nspname, c.relname
from pg_catalog.pg_constraint as k
join pg_catalog.pg_class as own on own.oid in (k.conrelid, k.confrelid)
join pg_catalog.pg_namespace as s on s.oid = own.relnamespace
join pg_catalog.pg_class as c on c.oid = case when own.oid = k.conrelid then k.confrelid else k.conrelid end
join pg_catalog.pg_namespace as n on n.oid = c.relnamespace
where k.contype = 'f' and s.nspname = $1 and own.relname = $2
    and (
        k.conname = $3
        or exists (
            select from pg_catalog.pg_attribute as a
            where a.attrelid = k.conrelid and a.attnum = any(k.conkey) and a.attname = $3
        )
    )
