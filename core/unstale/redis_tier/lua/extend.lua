-- Extends a lease while its loader runs.   KEYS: key   ARGV: lease, milliseconds   Reply: 1, or 0 if the lease is lost
if redis.call('TYPE', KEYS[1])['ok'] ~= 'string' or redis.call('GET', KEYS[1]) ~= ARGV[1] then
  return 0
end
return redis.call('PEXPIRE', KEYS[1], ARGV[2])
