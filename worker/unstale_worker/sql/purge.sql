-- One small step of the purge: maximum rows, retention, maximum rows of the whole outbox.
select unstale.purge($1::int, make_interval(secs => $2::float8), $3::bigint)
