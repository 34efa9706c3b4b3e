-- Claims keys whose refresh is due: their score moves to when they become due again if nobody finishes them.
-- KEYS: refresh   ARGV: most keys, milliseconds of visibility
-- Reply: { the keys claimed, milliseconds until the next one is due or -1 }
local refresh = KEYS[1]
if not has_type(refresh, 'zset') then return { {}, -1 } end
local now = math.floor(clock_ms())
local due = redis.call('ZRANGEBYSCORE', refresh, '-inf', now, 'LIMIT', 0, ARGV[1])
if #due > 0 then
  local again, pairs_ = string.format('%.0f', now + tonumber(ARGV[2])), {}
  for _, key in ipairs(due) do
    pairs_[#pairs_ + 1] = again
    pairs_[#pairs_ + 1] = key
  end
  redis.call('ZADD', refresh, 'XX', unpack(pairs_))
end
local first = redis.call('ZRANGE', refresh, 0, 0, 'WITHSCORES')
if not first[2] then return { due, -1 } end
return { due, math.max(0, tonumber(first[2]) - now) }
