-- No position (or other rules): the owned keys were dropped after the snapshot; store it under a new epoch (model F5).
-- KEYS: state, log, rules
-- ARGV: 1 channel, 2 fence, 3 position read ('' if none), 4 run read before the snapshot, 5 new epoch, 6 new position,
--       7 lsn, 8 flushed lsn, 9 database, 10 hash of the rules, 11 rules as JSON, 12 snapshot read, 13 age in ms,
--       14 server's clock in ms when the read began, at the earliest
-- Reply: { 'ok' } or { 'refused', reason }
local state, log = KEYS[1], KEYS[2]
local reason = refusal(state, log, ARGV[2], false, ARGV[3])
if not reason and live_run() ~= ARGV[4] then reason = 'run' end
if reason then
  return { 'refused', reason }
end
redis.call('UNLINK', log)
redis.call('SET', KEYS[3], ARGV[11])
if lsn_after(ARGV[7], redis.call('HGET', state, 'need_lsn')) then
  redis.call('HSET', state, 'need_lsn', ARGV[7])
end
if not string.match(redis.call('HGET', state, 'last') or '', '^%d+$') or #redis.call('HGET', state, 'last') > 15 then
  redis.call('HSET', state, 'last', 0) -- a new epoch may count anew
end
redis.call('HSET', state, 'epoch', ARGV[5], 'run', ARGV[4], 'position', ARGV[6], 'lsn', ARGV[7], 'flushed', ARGV[8],
  'database', ARGV[9], 'rules', ARGV[10], 'applied_at', now_ms(), 'log_bytes', 0)
publish_watermark(state, ARGV[1], ARGV[5], ARGV[12], ARGV[7], ARGV[10], true_age(ARGV[13], ARGV[14]), ARGV[8],
  ARGV[9])
return { 'ok' }
