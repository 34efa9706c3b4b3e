-- Acquires a lease whatever the key holds, for a loader whose value is to replace it.
-- A value stays readable: its lease is unique white space appended to the JSON text. Whatever removes
-- or replaces the value therefore removes the lease too, and fill.lua stores only if the lease is still there. If the key
-- is missing or holds another lease, a plain lease is stored instead.
-- A value under tags stays only if it has exactly the tags that the reader names, and if it is valid.
-- KEYS: key, state, the record of each tag that the reader names...
-- ARGV: plain lease, its life in milliseconds, white space, margin in ms or ''
-- With a margin (early refresh), the lease is acquired only on a value with less than the margin to live. In the first
-- half of the margin, it is not acquired on a value that already has a lease: another process is loading it.
-- Reply: { content of the key afterwards (the lease if it was acquired, the JSON of a value under tags if not), 1 if acquired
--   else 0, ms to live, epoch, need_lsn, primary_until, database }
local kind = redis.call('TYPE', KEYS[1])['ok']
if kind ~= 'string' and kind ~= 'none' then
  return { false, 0, -1 }
end
local found = redis.call('GET', KEYS[1])
local life = redis.call('PTTL', KEYS[1])
local is_value = found and string.byte(found, 1) ~= 0 and #KEYS == 2
local shown = found
if found and string.sub(found, 1, #TAGGED) == TAGGED then
  local tags, _, from = tags_of(found)
  local names = {}
  for _, tag in ipairs(tags) do names[tag.record] = true end
  is_value = #tags == #KEYS - 2 and tags_stand(tags)
  for at = 3, #KEYS do is_value = is_value and names[KEYS[at]] end
  if is_value then shown = string.sub(found, from) end
end
local early = ARGV[4] ~= ''
if early and (not is_value or life < 0 or life >= tonumber(ARGV[4])) then
  return { shown, 0, life }
end
local lease = ARGV[1]
if #KEYS > 2 and not is_value then
  lease = lease .. '\n' .. tags_header(3, string.match(lease, '%x+$'))
end
if is_value then
  local last = #found
  local byte = string.byte(found, last)
  while byte == 32 or byte == 9 or byte == 10 do
    last = last - 1
    byte = string.byte(found, last)
  end
  if early and #found - last == #ARGV[3] and life > tonumber(ARGV[4]) / 2 then
    return { shown, 0, life }
  end
  lease = string.sub(found, 1, last) .. ARGV[3]
  redis.call('SET', KEYS[1], lease, 'KEEPTTL')
else
  redis.call('SET', KEYS[1], lease, 'PX', ARGV[2])
end
local known = { false, false, false, false }
if has_type(KEYS[2], 'hash') then
  known = redis.call('HMGET', KEYS[2], 'epoch', 'need_lsn', 'primary_until', 'database')
end
return { lease, 1, life, known[1], known[2], known[3], known[4] }
