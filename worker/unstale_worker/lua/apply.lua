-- One script of a batch: unlink, log, raise need_lsn, publish; the batch's last script also stores the position, and
-- may say the watermark that is true from then on.
-- KEYS: state, log, the keys to unlink...
-- ARGV: 1 channel, 2 fence, 3 epoch, 4 stored position, 5 keys as JSON, 6 patterns as JSON, 7 log bytes, 8 lsn,
--       and for the last script: 9 new position, 10 flushed lsn, 11 database,
--       and for a watermark: 12 snapshot read, 13 hash of the rules, 14 age in ms, 15 primary_until read before the database,
--       16 server's clock in ms when the read began, at the earliest
-- Reply: { 'ok', log id, unlinked, primary_until or '', server's clock in ms } or { 'refused', reason }
local state, log = KEYS[1], KEYS[2]
local reason = refusal(state, log, ARGV[2], ARGV[3], ARGV[4])
if reason then
  return { 'refused', reason }
end
local unlinked, id, pending = 0, 0, ''
if #KEYS > 2 then
  unlinked = redis.call('UNLINK', unpack(KEYS, 3))
end
if ARGV[5] ~= '[]' or ARGV[6] ~= '[]' then
  if lsn_after(ARGV[8], redis.call('HGET', state, 'need_lsn')) then
    redis.call('HSET', state, 'need_lsn', ARGV[8])
  end
  id = append(state, log, ARGV[1], ARGV[3], ARGV[5], ARGV[6], tonumber(ARGV[7]))
end
if ARGV[9] then
  redis.call('HSET', state, 'position', ARGV[9], 'lsn', ARGV[8], 'flushed', ARGV[10], 'database', ARGV[11],
    'applied_at', now_ms())
end
if ARGV[12] then
  pending = say(state, ARGV[1], ARGV[3], ARGV[12], ARGV[8], ARGV[13], ARGV[14], ARGV[15], ARGV[16],
    ARGV[10], ARGV[11])
end
return { 'ok', id, unlinked, pending, string.format('%.3f', clock_ms()) }
