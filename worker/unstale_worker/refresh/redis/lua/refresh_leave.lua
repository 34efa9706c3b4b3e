-- Leaves a key to its next reader: its refresh ends without a value, and no old one is served any more.
-- KEYS: refresh, key, stale, failures   ARGV: lease      Reply: 1
local refresh, key, stale, failures = unpack(KEYS)
if redis.call('TYPE', key)['ok'] == 'string' and redis.call('GET', key) == ARGV[1] then redis.call('UNLINK', key) end
if has_type(refresh, 'zset') then redis.call('ZREM', refresh, key) end
redis.call('UNLINK', stale, failures)
return 1
