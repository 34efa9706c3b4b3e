-- Reads keys, and acquires the lease of each missing one, until the values are large together: a reply of a GB would keep
-- the server from all other clients, the worker among them.
-- KEYS: the keys   ARGV: lease, milliseconds the lease lives, bytes after which no more keys are read
-- Reply: for each key that was read, from the first one on, its content afterwards: a value, a lease (the caller's own if
-- the key was missing), or '' for a key of another type
local standing, bytes = {}, 0
for first = 1, #KEYS, 8 do
  local found = redis.call('MGET', unpack(KEYS, first, math.min(first + 7, #KEYS)))
  for number = 1, #found do
    local value = found[number]
    if not value then
      local key = KEYS[first + number - 1]
      if redis.call('SET', key, ARGV[1], 'NX', 'PX', ARGV[2]) then
        value = ARGV[1]
      else
        -- The key has another type.
        local other = redis.pcall('GET', key)
        value = type(other) == 'string' and other or ''
      end
    end
    standing[first + number - 1] = value
    bytes = bytes + #value
  end
  if bytes > tonumber(ARGV[3]) then break end
end
return standing
