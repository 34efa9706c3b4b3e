-- Counts one call of a loader against its budgets, if none of them is used up. It runs before the call: a process that is
-- killed between the two has wasted a call of the budget, and none is ever made without having been counted.
-- Windows begin at multiples of their length since 1970, by the server's clock. If a promotion sets that clock back by less
-- than a window, the one that has begun goes on.
-- KEYS: a hash for each budget
-- ARGV: milliseconds that the counts are kept without a call, then for each budget: most calls, milliseconds of its window, field
-- Reply: { 0: counted, or position of a budget that is used up; milliseconds until its next window; then, if counted, the
--          beginning of the window of each budget }
local now = math.floor(clock_ms())
local begins, over, wait = {}, 0, -1
for at, counts in ipairs(KEYS) do
  local most, width, field = tonumber(ARGV[at * 3 - 1]), tonumber(ARGV[at * 3]), ARGV[at * 3 + 1]
  local known = has_type(counts, 'hash') and redis.call('HMGET', counts, 'window', field) or {}
  local begin, before = now - now % width, tonumber(known[1] or '')
  if before and before > begin and before <= begin + width then begin = before end
  if before ~= begin then
    redis.call('UNLINK', counts)
  elseif tonumber(known[2] or 0) >= most and begin + width - now > wait then
    over, wait = at, begin + width - now
  end
  begins[at] = string.format('%.0f', begin)
end
if over > 0 then return { over, math.max(1, wait) } end
for at, counts in ipairs(KEYS) do
  redis.call('HSET', counts, 'window', begins[at])
  redis.call('HINCRBY', counts, ARGV[at * 3 + 1], 1)
  redis.call('PEXPIRE', counts, ARGV[1])
end
return { 0, 0, unpack(begins) }
