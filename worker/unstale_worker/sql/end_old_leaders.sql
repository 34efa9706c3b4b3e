-- Ends the Postgres sessions of leaders with a lower fence.
select unstale.end_old_leaders($1::bigint)
