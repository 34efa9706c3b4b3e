-- Claims keys whose refresh is due: their score moves to the time when they are due again if no process finishes them.
-- Ready keys of Python loaders have scores far above every time (refresh_reserve.lua).
-- KEYS: refresh   ARGV: most keys, milliseconds of visibility
-- Reply: { the keys claimed, milliseconds until the next one is due or -1, server's clock in ms }
local refresh = KEYS[1]
local now = math.floor(clock_ms())
local at = string.format('%.0f', now)
if not has_type(refresh, 'zset') then return { {}, -1, at } end
local due = redis.call('ZRANGEBYSCORE', refresh, '-inf', at, 'LIMIT', 0, ARGV[1])
if #due > 0 then
  local again, pairs_ = string.format('%.0f', now + tonumber(ARGV[2])), {}
  for _, key in ipairs(due) do
    pairs_[#pairs_ + 1] = again
    pairs_[#pairs_ + 1] = key
  end
  redis.call('ZADD', refresh, 'XX', unpack(pairs_))
end
local first = redis.call('ZRANGE', refresh, 0, 0, 'WITHSCORES')
if not first[2] then return { due, -1, at } end
return { due, math.max(0, tonumber(first[2]) - now), at }
