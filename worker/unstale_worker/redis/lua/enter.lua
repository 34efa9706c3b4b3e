-- Stores the fence of a new leader in a partition that is not the one of the leader's lease.
-- KEYS: state   ARGV: fence
-- Reply: the fence in the state afterwards; a higher one is that of a newer leader, or the leader's slot has lost its data.
if not has_type(KEYS[1], 'hash') then
  return redis.error_reply('UNSTALE the state key holds another type; delete it')
end
local fence = redis.call('HGET', KEYS[1], 'fence') or ''
if string.match(fence, '^%d+$') and #fence <= 15 and tonumber(fence) > tonumber(ARGV[1]) then
  return fence
end
redis.call('HSET', KEYS[1], 'fence', ARGV[1])
return ARGV[1]
