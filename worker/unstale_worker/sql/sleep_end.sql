-- The worker is awake: captures stop notifying.
select pg_advisory_unlock($1::int, $2::int)
