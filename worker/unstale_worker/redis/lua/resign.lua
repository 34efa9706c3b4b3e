-- Releases the leader's lease.    KEYS: leader   ARGV: token      Reply: 1, or 0 if the lease was another worker's
if redis.call('TYPE', KEYS[1])['ok'] ~= 'string' or redis.call('GET', KEYS[1]) ~= ARGV[1] then
  return 0
end
return redis.call('UNLINK', KEYS[1])
