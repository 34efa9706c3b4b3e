-- The columns of the tables with schemas $1 and names $2; `fixed` are those of the primary key: captures see a row whose key
-- changed as one that went and one that came, whatever the columns of a rule.
select
    n.nspname as schema, c.relname as name, array_agg(a.attname::text order by a.attnum) as columns,
    coalesce(array_agg(a.attname::text) filter (where a.attnum = any((i.indkey::int2[])[0:i.indnkeyatts - 1])), '{}') as fixed
from unnest($1::text[], $2::text[]) as wanted (schema, name)
join pg_catalog.pg_namespace as n on n.nspname = wanted.schema
join pg_catalog.pg_class as c on c.relnamespace = n.oid and c.relname = wanted.name
join pg_catalog.pg_attribute as a on a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped
left join pg_catalog.pg_index as i on i.indrelid = c.oid and i.indisprimary
group by n.nspname, c.relname
