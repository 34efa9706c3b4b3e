-- The worker is awake: captures stop notifying. Nobody waits for the disk: after 30 seconds they stop anyway.
select unstale.end_notify() from set_config('synchronous_commit', 'off', true)
