-- Gives leases up without a value; the keys are due again after a while.
-- KEYS: refresh, keys...   ARGV: lease, milliseconds until they are due      Reply: how many leases stood
local wanted, stood = has_type(KEYS[1], 'zset'), 0
local again = string.format('%.0f', math.floor(clock_ms()) + tonumber(ARGV[2]))
for at = 2, #KEYS do
  if redis.call('TYPE', KEYS[at])['ok'] == 'string' and redis.call('GET', KEYS[at]) == ARGV[1] then
    stood = stood + redis.call('UNLINK', KEYS[at])
  end
  if wanted then redis.call('ZADD', KEYS[1], 'XX', again, KEYS[at]) end
end
return stood
