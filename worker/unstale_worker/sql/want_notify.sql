-- The worker falls asleep, or sleeps on: captures notify. Nobody waits for the disk: a crash ends this session, too.
select unstale.want_notify() from set_config('synchronous_commit', 'off', true)
