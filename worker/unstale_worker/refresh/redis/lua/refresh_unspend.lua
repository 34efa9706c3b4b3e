-- Takes back what refresh_spend.lua has counted, for a loader that found its inputs unchanged and called no model. It is sent
-- once: repeated after a lost reply, it would give away a call that was made.
-- KEYS: a hash for each budget   ARGV: for each budget: field, beginning of the window      Reply: how many were taken back
local back = 0
for at, counts in ipairs(KEYS) do
  local field = ARGV[at * 2 - 1]
  local known = redis.call('TYPE', counts)['ok'] == 'hash' and redis.call('HMGET', counts, 'window', field) or {}
  if known[1] == ARGV[at * 2] and tonumber(known[2] or 0) > 0 then
    redis.call('HINCRBY', counts, field, -1)
    back = back + 1
  end
end
return back
