
-- No rule asks this any more, or not so.
drop function if exists unstale.query_@{hash}(jsonb, integer);
