-- Keeps a loader's slot while it runs: the slot of a killed process is free again after the takeover time.
-- KEYS: running   ARGV: lease, milliseconds of takeover      Reply: 1
if not has_type(KEYS[1], 'zset') then redis.call('UNLINK', KEYS[1]) end
redis.call('ZADD', KEYS[1], string.format('%.0f', math.floor(clock_ms()) + tonumber(ARGV[2])), ARGV[1])
if redis.call('PTTL', KEYS[1]) < tonumber(ARGV[2]) then redis.call('PEXPIRE', KEYS[1], ARGV[2]) end
return 1
