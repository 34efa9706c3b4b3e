-- Run one refresh's query for many keys at once; each result is JSON.
-- $1 numbers the keys; $2, $3, ... hold one field of the key each, as text: bound, never spliced.
-- "unstale changed" replaces the query's placeholders: the fields, in the types that Postgres inferred for them.
select "unstale given"."unstale row", (@{value})::text
from unnest($1::bigint[]@{parameters}) as "unstale given" ("unstale row"@{names})
cross join lateral (
    select "unstale given"."unstale row"@{casts}
) as "unstale changed"
cross join lateral (
@{query}
) as "unstale found"
