
-- The keys of @{table} have no placeholder, so every change counts: its primary key stands for a change.
select unstale.watch(
    @{table}::regclass,
    keys => (
        select pg_catalog.array_agg(a.attname::text order by a.attnum)
        from pg_catalog.pg_index as i
        join pg_catalog.pg_attribute as a on a.attrelid = i.indrelid and a.attnum = any (i.indkey)
        where i.indrelid = @{table}::regclass and i.indisprimary
    ),
    columns => @{columns}
);
