-- Reads keys, and takes the lease of each that is missing.
-- KEYS: the keys   ARGV: for each key its lease and the lease's milliseconds
-- Reply: for each key what stands there now: a value, a lease (the caller's own where it was missing), or '' for
-- another type
local standing = redis.call('MGET', unpack(KEYS))
for number, key in ipairs(KEYS) do
  if not standing[number] then
    local lease = ARGV[2 * number - 1]
    if redis.call('SET', key, lease, 'NX', 'PX', ARGV[2 * number]) then
      standing[number] = lease
    else
      -- A key of another type, or one that stands in KEYS twice.
      local found = redis.pcall('GET', key)
      standing[number] = type(found) == 'string' and found or ''
    end
  end
end
return standing
