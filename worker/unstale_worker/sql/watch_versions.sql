-- Every version of every watch: the table, the columns of a key tuple in order, the filter of the current version, and
-- the built-in types of the key columns now ('' for any other type, and for a column that is gone).
select watch, version, table_schema, table_name, key_columns, current, columns, array(
    select coalesce((
        select b.typname::text
        from pg_catalog.pg_attribute as a
        join pg_catalog.pg_type as t on t.oid = a.atttypid
        join pg_catalog.pg_type as b on b.oid = case t.typtype when 'd' then t.typbasetype else t.oid end
        where a.attrelid = ( -- to_regclass would need the worker's role to have usage on the schema
                select c.oid from pg_catalog.pg_class as c
                join pg_catalog.pg_namespace as n on n.oid = c.relnamespace
                where n.nspname = v.table_schema and c.relname = v.table_name
            )
            and a.attname = k.name and a.attnum > 0 and not a.attisdropped
            and b.typnamespace = 'pg_catalog'::pg_catalog.regnamespace
    ), '')
    from pg_catalog.unnest(v.key_columns) with ordinality as k(name, place) order by k.place
) as key_types
from unstale.watch_versions as v
