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
local last = redis.call('GET', KEYS[2]) or ''
if string.match(last, '^%d+$') and #last > 18 then -- the next one would not be exact, and a smaller one no fence
  return redis.error_reply('UNSTALE the counter of the locks is out of range; delete it')
end
local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000000 + tonumber(time[2])
if not string.match(last, '^%d+$') or tonumber(last) < now then
  redis.call('SET', KEYS[2], string.format('%.0f', now))
else
  redis.call('INCR', KEYS[2]) -- Redis counts to 2^63, Lua to 2^53
end
redis.call('PEXPIRE', KEYS[2], ARGV[3])
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
return { redis.call('GET', KEYS[2]), 0 }
