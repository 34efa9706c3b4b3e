-- Retries a dead letter: it is due at once, with all its attempts.
-- KEYS: refresh, dead letters, failures   ARGV: key      Reply: 1, or 0: there was no such dead letter
if not has_type(KEYS[2], 'hash') or redis.call('HDEL', KEYS[2], ARGV[1]) == 0 then return 0 end
redis.call('UNLINK', KEYS[3])
if has_type(KEYS[1], 'zset') then
  redis.call('ZADD', KEYS[1], string.format('%.0f', math.floor(clock_ms())), ARGV[1])
end
return 1
