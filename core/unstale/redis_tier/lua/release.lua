-- Releases a lease, so that the next reader does not wait.   KEYS: key   ARGV: lease   Reply: 1, or 0 if it was lost
if redis.call('TYPE', KEYS[1])['ok'] ~= 'string' or redis.call('GET', KEYS[1]) ~= ARGV[1] then
  return 0
end
return redis.call('UNLINK', KEYS[1])
