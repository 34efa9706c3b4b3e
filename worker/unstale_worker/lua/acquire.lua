-- Takes or keeps the leader's lease and raises the fence.
-- KEYS: leader, state   ARGV: token, milliseconds      Reply: { fence, 0 }, or { 0, milliseconds the other's lease lives }
if not has_type(KEYS[2], 'hash') or not has_type(KEYS[1], 'string') then
  return redis.error_reply('UNSTALE the leader or state key holds another type; delete it')
end
local holder = redis.call('GET', KEYS[1])
if holder and holder ~= ARGV[1] then
  return { 0, redis.call('PTTL', KEYS[1]) }
end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
return { redis.call('HINCRBY', KEYS[2], 'fence', 1), 0 }
