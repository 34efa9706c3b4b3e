-- The worker falls asleep, or sleeps on: captures notify. The call does not wait for the disk: a crash ends this session, too.
select unstale.want_notify() from set_config('synchronous_commit', 'off', true)
