-- The worker is awake: captures stop notifying. The call does not wait for the disk: after 30 s they stop anyway.
select unstale.end_notify() from set_config('synchronous_commit', 'off', true)
