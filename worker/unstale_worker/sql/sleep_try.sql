-- "The worker sleeps": granted only while no capture's transaction is open that saw it awake.
select pg_try_advisory_lock($1::int, $2::int)
