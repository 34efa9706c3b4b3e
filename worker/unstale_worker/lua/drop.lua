-- Unlinks keys that a SCAN found for a pattern; what follows (a batch's last script, or recovery) says so to agents.
-- KEYS: state, log, keys...   ARGV: fence, stored position, run seen before the scan
-- Reply: { 'ok', unlinked } or { 'refused', reason }
local reason = refusal(KEYS[1], KEYS[2], ARGV[1], false, ARGV[2])
if not reason and live_run() ~= ARGV[3] then reason = 'run' end
if reason then
  return { 'refused', reason }
end
return { 'ok', redis.call('UNLINK', unpack(KEYS, 3)) }
