-- What role $3 may see of table $1.$2: its columns in order. `guarded` where row level security applies to it.
select
    a.attname as name,
    t.typname as type,
    coalesce(a.attnum = any (k.conkey), false) as is_key,
    pg_catalog.has_column_privilege($3::name, a.attrelid, a.attnum, 'select') as visible,
    c.relrowsecurity and not (r.rolbypassrls or r.rolsuper) as guarded
from pg_catalog.pg_class c
join pg_catalog.pg_namespace n on n.oid = c.relnamespace
join pg_catalog.pg_attribute a on a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped
join pg_catalog.pg_type t on t.oid = a.atttypid
join pg_catalog.pg_roles r on r.rolname = $3::name
left join pg_catalog.pg_constraint k on k.conrelid = c.oid and k.contype = 'p'
where n.nspname = $1::name and c.relname = $2::name
order by a.attnum
