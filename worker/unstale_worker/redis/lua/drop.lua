-- Unlinks keys that a SCAN found for a pattern. Agents hear of them from what follows: the batch's last script, or recovery.
-- Runs once without keys before the SCAN: need_lsn must be raised before a lease can be taken that the SCAN no longer sees,
-- or the loader of that lease could read a replica from before the change.
-- KEYS: state, log, keys...   ARGV: header, see `refusal`, and its field lsn
-- Reply: { 'ok', unlinked } or { 'refused', reason }
local header = cjson.decode(ARGV[1])
local reason = refusal(KEYS[1], KEYS[2], header)
if reason then
  return { 'refused', reason }
end
raise_need_lsn(KEYS[1], header.lsn)
if #KEYS == 2 then
  return { 'ok', 0 }
end
return { 'ok', redis.call('UNLINK', unpack(KEYS, 3)) }
