-- Read the rows of many keys at once, each as JSON of the chosen columns.
-- $1 numbers the keys; $2, $3, ... hold one column of the key each, as text: bound, never spliced.
-- A key without a row is missing in the result; a key with several rows occurs several times.
select "unstale given"."unstale row", pg_catalog.to_jsonb("unstale found")::text
from unnest($1::bigint[]@{parameters}) as "unstale given" ("unstale row"@{names})
cross join lateral (
    select @{columns}
    from @{table} as "unstale table"
    where @{conditions}
) as "unstale found"
