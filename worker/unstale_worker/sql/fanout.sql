-- Run one rule's query for many changed rows at once.
-- $1 numbers the rows; $2, $3, ... hold one argument each, as text: bound, never spliced.
-- "unstale changed" replaces the query's placeholders: the arguments, cast to their columns' types.
select @{given}"unstale found".*
from unnest($1::bigint[]@{parameters}) as "unstale given" ("unstale row"@{names})
cross join lateral (
    select "unstale given"."unstale row"@{casts}
) as "unstale changed"
cross join lateral (
@{query}
) as "unstale found"
