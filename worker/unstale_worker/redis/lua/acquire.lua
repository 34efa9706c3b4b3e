-- Takes or keeps the leader's lease and raises the fence.
-- KEYS: leader, state
-- ARGV: token, milliseconds, id of a new consumer, and in a cluster the number of partitions and the least last fence
-- Reply: { fence, consumer }, or { 0, '' } while another worker holds the lease, or { -1, number of partitions } if the state
-- says another number.
-- The consumer names this Redis and namespace to Postgres, where workers of other ones may read the same outbox.
if not has_type(KEYS[2], 'hash') or not has_type(KEYS[1], 'string') then
  return redis.error_reply('UNSTALE the leader or state key holds another type; delete it')
end
if ARGV[4] then
  local partitions = redis.call('HGET', KEYS[2], 'partitions') or ARGV[4]
  if partitions ~= ARGV[4] then
    return { -1, partitions }
  end
end
local holder = redis.call('GET', KEYS[1])
if holder and holder ~= ARGV[1] then
  return { 0, '' }
end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
local fence = redis.call('HGET', KEYS[2], 'fence') or '0'
if not string.match(fence, '^%d+$') or #fence > 15 then
  redis.call('HSET', KEYS[2], 'fence', 0) -- one that Lua cannot count counts for nothing; the position check still protects
end
if ARGV[4] then
  redis.call('HSET', KEYS[2], 'partitions', ARGV[4])
  if tonumber(ARGV[5]) > tonumber(redis.call('HGET', KEYS[2], 'fence') or 0) then
    redis.call('HSET', KEYS[2], 'fence', ARGV[5])
  end
end
redis.call('HSETNX', KEYS[2], 'consumer', ARGV[3])
return { redis.call('HINCRBY', KEYS[2], 'fence', 1), redis.call('HGET', KEYS[2], 'consumer') }
