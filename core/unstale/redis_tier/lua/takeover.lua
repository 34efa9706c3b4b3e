-- Replaces a soft lease (left by a missed get), or nothing, with a loader's lease.
-- KEYS: key, state   ARGV: first bytes of a soft lease, new lease, milliseconds
-- Reply: { content of the key afterwards, epoch, need_lsn, primary_until, database }. The content is the new lease if it
-- was acquired.
if redis.call('TYPE', KEYS[1])['ok'] ~= 'string' and redis.call('EXISTS', KEYS[1]) == 1 then
  return { false, false, false, false, false }
end
local found = redis.call('GET', KEYS[1])
if not found or string.sub(found, 1, #ARGV[1]) == ARGV[1] then
  redis.call('SET', KEYS[1], ARGV[2], 'PX', ARGV[3])
  found = ARGV[2]
end
local known = { false, false, false, false }
if has_type(KEYS[2], 'hash') then
  known = redis.call('HMGET', KEYS[2], 'epoch', 'need_lsn', 'primary_until', 'database')
end
return { found, known[1], known[2], known[3], known[4] }
