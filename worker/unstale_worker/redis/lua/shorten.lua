-- Lets stored values live no longer than a TTL that is shorter than the one they were stored with. It removes nothing, so it
-- may run beside batches, and only a leader that has lost the lead is refused.
-- When all are done it removes from the state what was to be shortened, so that a leader that comes next does not do it again.
-- KEYS: state, keys...   ARGV: fence, milliseconds; without keys: fence, field `lives` of the state as it was
-- Reply: 1, or 0 if this worker is not the leader any more
if not has_type(KEYS[1], 'hash') or redis.call('HGET', KEYS[1], 'fence') ~= ARGV[1] then
  return 0
end
if not KEYS[2] then
  if redis.call('HGET', KEYS[1], 'lives') == ARGV[2] then redis.call('HDEL', KEYS[1], 'lives') end
  return 1
end
for at = 2, #KEYS do
  if redis.call('PTTL', KEYS[at]) > tonumber(ARGV[2]) then -- a key without a TTL is none of ours
    redis.call('PEXPIRE', KEYS[at], ARGV[2])
  end
end
return 1
