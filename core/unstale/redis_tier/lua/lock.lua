-- Acquires a free lock, with a fence number above every earlier one. This holds even after Redis lost its data, because
-- the number is at least the server's time in microseconds.
-- KEYS: lock, counter   ARGV: lease, milliseconds the lease lives, milliseconds the counter lives
-- Reply: { fence, 0 }, or { '', milliseconds until the holder's lease ends }
if not has_type(KEYS[1], 'string') or not has_type(KEYS[2], 'string') then
  return redis.error_reply('UNSTALE the lock or its counter holds another type; delete it')
end
if redis.call('EXISTS', KEYS[1]) == 1 then
  return { '', redis.call('PTTL', KEYS[1]) }
end
local time = redis.call('TIME')
local fence = tonumber(time[1]) * 1000000 + tonumber(time[2])
local last = tonumber(redis.call('GET', KEYS[2]) or '0') or 0
if fence <= last then fence = last + 1 end
local text = string.format('%.0f', fence)
redis.call('SET', KEYS[2], text, 'PX', ARGV[3])
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
return { text, 0 }
