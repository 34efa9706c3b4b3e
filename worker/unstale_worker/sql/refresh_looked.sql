-- Run a loader's statement, then list the tables it has read whose policies may have hidden rows, numbered -1.
-- The list must come last: it looks at the locks that the statement has taken.
with "unstale hidden" as materialized (
@{hidden}
)
(
@{loaded}
)
union all
select -1, name from "unstale hidden"
