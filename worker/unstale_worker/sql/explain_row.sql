-- Read columns of one row by its primary key, as JSON. No rows: there is no such row.
-- $1, $2, ... hold one column of the key each, as text: bound, never spliced.
select pg_catalog.to_jsonb("unstale found")::text
from (
    select @{columns}
    from @{table} as "unstale table"
    where @{conditions}
) as "unstale found"
