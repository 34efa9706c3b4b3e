-- Takes a lease although something stands at the key, for a loader whose value is to replace it. A value stays readable:
-- its lease is white space behind the JSON text that no other process has written, so whatever removes or replaces the
-- value removes the lease with it. fill.lua stores over it only while it stands. In the place of another's lease, or of
-- nothing, a plain lease is put.
-- KEYS: key, state   ARGV: plain lease, its milliseconds, white space, margin in ms or ''
-- With a margin (early refresh) only a value with less than that to live is taken, and none that was taken in the first
-- half of the margin: another process is loading it.
-- Reply: { what stands there now (the lease if it was taken), 1 taken or 0, ms to live, epoch, need_lsn, primary_until, database }
local kind = redis.call('TYPE', KEYS[1])['ok']
if kind ~= 'string' and kind ~= 'none' then
  return { false, 0, -1 }
end
local found = redis.call('GET', KEYS[1])
local life = redis.call('PTTL', KEYS[1])
local is_value = found and string.byte(found, 1) ~= 0
local early = ARGV[4] ~= ''
if early and (not is_value or life < 0 or life >= tonumber(ARGV[4])) then
  return { found, 0, life }
end
local lease = ARGV[1]
if is_value then
  local last = #found
  local byte = string.byte(found, last)
  while byte == 32 or byte == 9 or byte == 10 do
    last = last - 1
    byte = string.byte(found, last)
  end
  if early and #found - last == #ARGV[3] and life > tonumber(ARGV[4]) / 2 then
    return { found, 0, life }
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
