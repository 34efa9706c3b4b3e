-- Says up to where everything is applied. `primary_until` is cleared only if it is the one that was read *before* the read
-- of the database, so that the lsn covers the direct write that set it.
-- KEYS: state, log
-- ARGV: 1 channel, 2 fence, 3 epoch, 4 stored position, 5 snapshot read, 6 lsn, 7 hash of the rules, 8 age in ms, 9 primary_until read
-- Reply: { 'ok', primary_until or '' } or { 'refused', reason }
local state = KEYS[1]
local reason = refusal(state, KEYS[2], ARGV[2], ARGV[3], ARGV[4])
if reason then
  return { 'refused', reason }
end
local pending = redis.call('HGET', state, 'primary_until') or ''
if pending ~= '' and pending == ARGV[9] then
  if lsn_after(ARGV[6], redis.call('HGET', state, 'need_lsn')) then
    redis.call('HSET', state, 'need_lsn', ARGV[6])
  end
  redis.call('HDEL', state, 'primary_until')
  pending = ''
end
redis.call('HSET', state, 'applied_at', now_ms())
publish_watermark(state, ARGV[1], ARGV[3], ARGV[5], ARGV[6], ARGV[7], ARGV[8])
return { 'ok', pending }
