-- Stores a loaded value only if the lease taken for it still stands (compare-and-set).
-- KEYS: key, and if it is made new when it changes: its stale value, the refresh set
-- ARGV: lease, value, milliseconds to live      Reply: 1 stored, 0 the lease is gone
if redis.call('TYPE', KEYS[1])['ok'] ~= 'string' or redis.call('GET', KEYS[1]) ~= ARGV[1] then
  return 0
end
redis.call('SET', KEYS[1], ARGV[2], 'PX', ARGV[3])
if KEYS[2] then
  redis.call('UNLINK', KEYS[2])
  if has_type(KEYS[3], 'zset') then redis.call('ZREM', KEYS[3], KEYS[1]) end
end
return 1
