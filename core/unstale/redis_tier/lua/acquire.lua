-- Reads keys, and acquires the lease of each missing one.
-- KEYS: the keys   ARGV: for each key, its lease and the lease's life in milliseconds
-- Reply: for each key, its content afterwards: a value, a lease (the caller's own if the key was missing), or '' for a key
-- of another type
local standing = redis.call('MGET', unpack(KEYS))
for number, key in ipairs(KEYS) do
  if not standing[number] then
    local lease = ARGV[2 * number - 1]
    if redis.call('SET', key, lease, 'NX', 'PX', ARGV[2 * number]) then
      standing[number] = lease
    else
      -- The key has another type, or it is in KEYS twice.
      local found = redis.pcall('GET', key)
      standing[number] = type(found) == 'string' and found or ''
    end
  end
end
return standing
