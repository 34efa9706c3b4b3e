-- Stores a loaded value only if the lease taken for it still stands (compare-and-set).
-- KEYS: key   ARGV: lease, value, milliseconds to live      Reply: 1 stored, 0 the lease is gone
if redis.call('TYPE', KEYS[1])['ok'] ~= 'string' or redis.call('GET', KEYS[1]) ~= ARGV[1] then
  return 0
end
redis.call('SET', KEYS[1], ARGV[2], 'PX', ARGV[3])
return 1
