-- Reads keys, and acquires the lease of each missing one.
-- KEYS: the keys   ARGV: lease, milliseconds the lease lives
-- Reply: for each key, its content afterwards: a value, a lease (the caller's own if the key was missing), or '' for a key
-- of another type
local standing = redis.call('MGET', unpack(KEYS))
for number, key in ipairs(KEYS) do
  if not standing[number] then
    if redis.call('SET', key, ARGV[1], 'NX', 'PX', ARGV[2]) then
      standing[number] = ARGV[1]
    else
      -- The key has another type.
      local found = redis.pcall('GET', key)
      standing[number] = type(found) == 'string' and found or ''
    end
  end
end
return standing
