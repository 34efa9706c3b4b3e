-- A loader's statement, and then the tables it has read whose policies may have hidden rows, numbered -1.
-- The second part comes last: it looks at the locks that the first one has taken by then.
with "unstale hidden" as materialized (
@{hidden}
)
(
@{loaded}
)
union all
select -1, name from "unstale hidden"
