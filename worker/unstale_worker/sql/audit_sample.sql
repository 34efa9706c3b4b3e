-- Rows of a table at random, each as JSON of the columns that make keys: of whole blocks, so it costs no scan.
-- $1 percent of the blocks; $2 most rows.
select pg_catalog.to_jsonb("unstale found")::text as row
from (
    select @{columns} from @{table} as "unstale table" tablesample system ($1::real)
    order by pg_catalog.random() limit $2
) as "unstale found"
