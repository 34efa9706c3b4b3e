-- Releases a lease, so that the next reader does not wait, or removes a value that cannot be used.
-- KEYS: key   ARGV: content; of a lease under tags also without its header, and of a value under tags its JSON
-- Reply: 1, or 0 if it was lost
if redis.call('TYPE', KEYS[1])['ok'] ~= 'string' then
  return 0
end
local found = redis.call('GET', KEYS[1])
if found ~= ARGV[1] then
  local tags, _, from = tags_of(found)
  local begins = tags and string.sub(found, 1, #ARGV[1] + 1) == ARGV[1] .. '\n'
  if not begins and not (tags and string.sub(found, from) == ARGV[1]) then
    return 0
  end
end
return redis.call('UNLINK', KEYS[1])
