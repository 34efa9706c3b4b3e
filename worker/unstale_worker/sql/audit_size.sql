-- Blocks of a table with all its partitions. No rows: it does not exist, or is no table.
-- $1 schema, $2 table; both as in the catalog.
select greatest(
    pg_catalog.pg_relation_size(c.oid),
    (select coalesce(pg_catalog.sum(pg_catalog.pg_relation_size(t.relid)), 0)
     from pg_catalog.pg_partition_tree(c.oid) as t where t.isleaf)
)::bigint / pg_catalog.current_setting('block_size')::bigint as blocks
from pg_catalog.pg_class as c join pg_catalog.pg_namespace as n on n.oid = c.relnamespace
where n.nspname = $1 and c.relname = $2 and c.relkind in ('r', 'p', 'm')
