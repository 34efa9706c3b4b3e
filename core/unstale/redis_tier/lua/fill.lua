-- Stores a loaded value only if the key still holds the loader's lease (compare-and-set), and only if there is an epoch:
-- without an epoch there is no position, and nothing would invalidate the value.
-- KEYS: key, state, and if the key is refreshed when it changes: its stale value, the refresh set, its fingerprint; and if a spare value is to
--   be stored: its name
-- ARGV: lease, value, milliseconds to live, and for a spare value the milliseconds that it lives longer
-- Reply: 1 if stored, 0 if the lease is lost or there is no epoch
-- A value whose lease was acquired under tags is stored under these, with the versions from then; not if one of the tags was
-- invalidated since.
if redis.call('TYPE', KEYS[1])['ok'] ~= 'string' or redis.call('GET', KEYS[1]) ~= ARGV[1] then
  return 0
end
if not has_type(KEYS[2], 'hash') or not redis.call('HGET', KEYS[2], 'epoch') then
  return 0
end
local value = ARGV[2]
local tags, header = tags_of(ARGV[1])
if tags then
  if not tags_stand(tags) then return 0 end
  for _, tag in ipairs(tags) do outlive(tag.record, ARGV[3]) end
  value = TAGGED .. header .. value
end
redis.call('SET', KEYS[1], value, 'PX', ARGV[3])
if ARGV[4] then -- see unstale/protocol/spares.py
  redis.call('SET', KEYS[#KEYS], ARGV[4] .. '\n' .. ARGV[2], 'PX', string.format('%.0f', ARGV[3] + ARGV[4]))
end
if KEYS[4] then
  redis.call('UNLINK', KEYS[3], KEYS[5])
  if has_type(KEYS[4], 'zset') then redis.call('ZREM', KEYS[4], KEYS[1]) end
end
return 1
