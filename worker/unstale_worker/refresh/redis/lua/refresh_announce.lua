-- Says that a refresh worker is there, and forgets those that have been silent for too long.
-- KEYS: workers   ARGV: its name, milliseconds of silence after which it does not count      Reply: how many there are
if not has_type(KEYS[1], 'zset') then redis.call('UNLINK', KEYS[1]) end
local now = math.floor(clock_ms())
redis.call('ZADD', KEYS[1], string.format('%.0f', now), ARGV[1])
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', string.format('(%.0f', now - tonumber(ARGV[2])))
redis.call('PEXPIRE', KEYS[1], ARGV[2])
return redis.call('ZCARD', KEYS[1])
