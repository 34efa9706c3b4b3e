-- Unlinks keys that a SCAN found for a pattern; what follows (a batch's last script, or recovery) says so to agents.
-- It runs once without keys before the SCAN: need_lsn must stand before the first lease that the SCAN cannot see any more,
-- or its loader could read a replica from before the change.
-- KEYS: state, log, keys...   ARGV: fence, stored position, run seen before the scan, lsn
-- Reply: { 'ok', unlinked } or { 'refused', reason }
local reason = refusal(KEYS[1], KEYS[2], ARGV[1], false, ARGV[2])
if not reason and live_run() ~= ARGV[3] then reason = 'run' end
if reason then
  return { 'refused', reason }
end
if lsn_after(ARGV[4], redis.call('HGET', KEYS[1], 'need_lsn')) then
  redis.call('HSET', KEYS[1], 'need_lsn', ARGV[4])
end
if #KEYS == 2 then
  return { 'ok', 0 }
end
return { 'ok', redis.call('UNLINK', unpack(KEYS, 3)) }
