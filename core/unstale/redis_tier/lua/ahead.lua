-- Marks a value as being made new, without taking it from its readers: the same JSON text, with white space behind it
-- that nobody else has written. An invalidation removes it like any value, and fill.lua stores over it only if it stands.
-- KEYS: key, state   ARGV: what was read, the same with new white space
-- Reply: { 1, epoch, need_lsn, primary_until, database }, or { 0 }: something else stands there now
if redis.call('TYPE', KEYS[1])['ok'] ~= 'string' or redis.call('GET', KEYS[1]) ~= ARGV[1] then
  return { 0 }
end
redis.call('SET', KEYS[1], ARGV[2], 'KEEPTTL')
local known = { false, false, false, false }
if has_type(KEYS[2], 'hash') then
  known = redis.call('HMGET', KEYS[2], 'epoch', 'need_lsn', 'primary_until', 'database')
end
return { 1, known[1], known[2], known[3], known[4] }
