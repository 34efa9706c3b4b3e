-- Reserves ready keys for one process, within each loader's concurrency and rate over all processes.
-- A reserved key is due again after the takeover time, unless its process holds on to it (refresh_hold.lua, refresh_extend.lua).
-- A loader that a model's rate limit pauses gets no key; nor does a process whose rules are not those of the leader.
-- KEYS: refresh, state, then for each loader: pause, running, rate
-- ARGV: hash of the rules file (behind + the state may have that of former watches), milliseconds of takeover, width of a range of scores, most keys, first part of the leases,
--       then for each loader: number of its range, most at the same time, loads in a time or 0, that time in ms
-- Reply: for each reserved key, in the order of their leases: position of its loader (from 1), key
local refresh, state = KEYS[1], KEYS[2]
if not has_type(refresh, 'zset') or not has_type(state, 'hash') then return {} end
if string.match(redis.call('HGET', state, 'rules') or '', '^[^+]*') ~= ARGV[1] then return {} end
local takeover, width, most = tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4])
local now = math.floor(clock_ms())
local again, reply, count = string.format('%.0f', now + takeover), {}, 0
-- Members of a limit's set that count still; the older ones are removed.
local function counted(set, older)
  if not has_type(set, 'zset') then redis.call('UNLINK', set) end
  redis.call('ZREMRANGEBYSCORE', set, '-inf', string.format('%.0f', older))
  return redis.call('ZCARD', set)
end
for at = 3, #KEYS, 3 do
  local pause, running, rate = KEYS[at], KEYS[at + 1], KEYS[at + 2]
  local argument = 6 + (at - 3) / 3 * 4
  local first = tonumber(ARGV[argument]) * width
  local loads, window = tonumber(ARGV[argument + 2]), tonumber(ARGV[argument + 3])
  local ready = count < most and redis.call('ZRANGEBYSCORE', refresh, string.format('%.0f', first),
    string.format('(%.0f', first + width), 'LIMIT', 0, most - count) or {}
  local allowed = #ready
  if allowed > 0 and redis.call('EXISTS', pause) == 1 then allowed = 0 end
  if allowed > 0 then
    allowed = math.min(allowed, tonumber(ARGV[argument + 1]) - counted(running, now))
    if loads > 0 then allowed = math.min(allowed, loads - counted(rate, now - window)) end
  end
  for position = 1, allowed do
    count = count + 1
    local lease = ARGV[5] .. string.format('%.0f', count)
    redis.call('ZADD', refresh, 'XX', again, ready[position])
    redis.call('ZADD', running, again, lease)
    if loads > 0 then redis.call('ZADD', rate, string.format('%.0f', now), lease) end
    reply[#reply + 1] = (at - 3) / 3 + 1
    reply[#reply + 1] = ready[position]
  end
  if allowed > 0 then
    if redis.call('PTTL', running) < takeover then redis.call('PEXPIRE', running, takeover) end
    if loads > 0 then redis.call('PEXPIRE', rate, window) end
  end
end
return reply
