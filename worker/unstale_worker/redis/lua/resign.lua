-- Gives the leader's lease up.    KEYS: leader   ARGV: token      Reply: 1, or 0: it was another's
if redis.call('TYPE', KEYS[1])['ok'] ~= 'string' or redis.call('GET', KEYS[1]) ~= ARGV[1] then
  return 0
end
return redis.call('UNLINK', KEYS[1])
