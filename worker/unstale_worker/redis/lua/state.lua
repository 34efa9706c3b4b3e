-- Reads in one atomic step all that a worker needs to begin a cycle.
-- KEYS: state      Reply: { live run, type of the state key, 'now', server's clock in ms, field, value, field, value ... }
local found = redis.call('TYPE', KEYS[1])['ok']
local reply = { live_run(), found, 'now', string.format('%.3f', clock_ms()) }
if found == 'hash' then
  for _, item in ipairs(redis.call('HGETALL', KEYS[1])) do reply[#reply + 1] = item end
end
return reply
