-- Gives a lease up, so that the next reader need not wait.    KEYS: key   ARGV: lease      Reply: 1, or 0: it was gone
if redis.call('TYPE', KEYS[1])['ok'] ~= 'string' or redis.call('GET', KEYS[1]) ~= ARGV[1] then
  return 0
end
return redis.call('UNLINK', KEYS[1])
