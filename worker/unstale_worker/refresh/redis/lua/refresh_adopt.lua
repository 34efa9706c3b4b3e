-- A new leader takes over what an older one had claimed or made ready: what is due only after the longest debounce is due now.
-- KEYS: refresh   ARGV: milliseconds of the longest debounce, most keys      Reply: how many were moved
if not has_type(KEYS[1], 'zset') then return 0 end
local now = math.floor(clock_ms())
local far = redis.call('ZRANGEBYSCORE', KEYS[1], string.format('(%.0f', now + tonumber(ARGV[1])), '+inf', 'LIMIT', 0, ARGV[2])
if #far > 0 then
  local due, pairs_ = string.format('%.0f', now), {}
  for _, key in ipairs(far) do
    pairs_[#pairs_ + 1] = due
    pairs_[#pairs_ + 1] = key
  end
  redis.call('ZADD', KEYS[1], 'XX', unpack(pairs_))
end
return #far
