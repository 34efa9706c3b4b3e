-- Reads keys, until the values are large together.
-- KEYS: the keys   ARGV: bytes after which no more keys are read
-- Reply: for each key that was read, from the first one on, its value, or false if it is missing or of another type
local last, bytes = #KEYS, 0
for number, key in ipairs(KEYS) do
  local size = redis.pcall('STRLEN', key) -- an error if the key has another type
  if type(size) == 'number' then bytes = bytes + size end
  if bytes > tonumber(ARGV[1]) then
    last = number
    break
  end
end
return redis.call('MGET', unpack(KEYS, 1, last))
