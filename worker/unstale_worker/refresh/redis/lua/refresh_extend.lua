-- Extends the leases of refreshes that still run, and the time until their keys are due again.
-- KEYS: refresh, keys...   ARGV: lease, milliseconds, milliseconds of visibility      Reply: how many leases still stand
local again = string.format('%.0f', math.floor(clock_ms()) + tonumber(ARGV[3]))
local wanted, standing = has_type(KEYS[1], 'zset'), 0
for at = 2, #KEYS do
  if redis.call('TYPE', KEYS[at])['ok'] == 'string' and redis.call('GET', KEYS[at]) == ARGV[1] then
    standing = standing + redis.call('PEXPIRE', KEYS[at], ARGV[2])
  end
  if wanted then
    redis.call('ZADD', KEYS[1], 'XX', 'GT', again, KEYS[at])
  end
end
return standing
