-- Reads a key whose value may be stored under tags, or acquires its lease if there is no value that is valid for the reader.
-- A value is valid if it has every tag that the reader names, and if the records of all its tags hold the versions that it
-- carries. A lease dies with its tags: then it is replaced.
-- KEYS: key, state, the record of each tag that the reader names...
-- ARGV: lease without header, '' to acquire none; milliseconds the lease lives; 1 for the lease of a missed get, else 0
-- Reply: { content, kind, ms to live, epoch, need_lsn, primary_until, database }. Of kind 0 the content is no value for this
--   reader, and false if there is none; of kind 1 it is the acquired lease; of kind 2 the JSON of a value that has the named
--   tags, and of kind 3 of one that has more. The state's fields come with a lease only.
local key, named = KEYS[1], #KEYS - 2
local found = redis.pcall('GET', key)
if type(found) == 'table' then -- the key has another type
  return { '', 0, -1 }
end
local kind = found and string.byte(found, 1)
if found and kind ~= 0 and (named == 0 or not kind) then
  return { found, kind and 2 or 0, redis.call('PTTL', key) }
end
if kind == 0 then
  local tags, _, from = tags_of(found)
  local stand = not tags or tags_stand(tags)
  if string.sub(found, 1, #TAGGED) == TAGGED then
    local names = {}
    for _, tag in ipairs(tags) do names[tag.record] = true end
    for at = 3, #KEYS do stand = stand and names[KEYS[at]] end
    if stand then
      return { string.sub(found, from), #tags == named and 2 or 3, redis.call('PTTL', key) }
    end
  elseif stand and (ARGV[3] == '1' or string.sub(found, 1, #SOFT) ~= SOFT) then
    return { found, 0, -1 }
  end
end
if ARGV[1] == '' then
  return { false, 0, -1 }
end
local lease = ARGV[1]
if named > 0 then
  lease = lease .. '\n' .. tags_header(3, string.match(lease, '%x+$'))
end
redis.call('SET', key, lease, 'PX', ARGV[2])
local known = { false, false, false, false }
if has_type(KEYS[2], 'hash') then
  known = redis.call('HMGET', KEYS[2], 'epoch', 'need_lsn', 'primary_until', 'database')
end
return { lease, 1, -1, known[1], known[2], known[3], known[4] }
