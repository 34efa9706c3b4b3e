-- Stores the report of an agent, and removes from the index the agents that have not reported for that long.
-- KEYS: index of the agents (a sorted set), the report of this one
-- ARGV: its id, the report as JSON, milliseconds to keep it
-- Reply: 1; 0 if one of the keys holds another type
if not has_type(KEYS[1], 'zset') or not has_type(KEYS[2], 'string') then
  return 0
end
local now, life = tonumber(now_ms()), tonumber(ARGV[3])
redis.call('SET', KEYS[2], ARGV[2], 'PX', ARGV[3])
redis.call('ZADD', KEYS[1], string.format('%.0f', now), ARGV[1])
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', string.format('(%.0f', now - life))
redis.call('PEXPIRE', KEYS[1], string.format('%.0f', 2 * life))
return 1
