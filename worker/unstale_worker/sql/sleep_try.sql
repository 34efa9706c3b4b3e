-- The worker sleeps. Granted only if no transaction is open whose capture saw the worker awake.
select pg_try_advisory_lock($1::int, $2::int)
