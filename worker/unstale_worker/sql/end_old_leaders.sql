-- End the Postgres sessions of this consumer's leaders with a lower fence.
select unstale.end_old_leaders($1::text, $2::bigint)
