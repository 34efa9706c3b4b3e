
-- No rule has this query any more.
drop function if exists unstale.query_@{hash}(jsonb, integer);
