-- There is no position to continue from (or the rules changed), and the owned keys were dropped after a snapshot was taken:
-- stores that snapshot as the position, under a new epoch. Dropping before the snapshot would lose the changes in between.
-- KEYS: state, log, rules
-- ARGV: header, the rules as JSON. Fields of the header, beside those that `refusal` reads (run: as it was before the snapshot):
--   channel, new_epoch, new_position, lsn, flushed, database, why (for people); watermark: see `publish_watermark`
-- Reply: { 'ok' } or { 'refused', reason }
local state, log, header = KEYS[1], KEYS[2], cjson.decode(ARGV[1])
local reason = refusal(state, log, header)
if reason then
  return { 'refused', reason }
end
redis.call('UNLINK', log)
redis.call('SET', KEYS[3], ARGV[2])
raise_need_lsn(state, header.lsn)
local last = redis.call('HGET', state, 'last') or ''
if not string.match(last, '^%d+$') or #last > 15 then
  redis.call('HSET', state, 'last', 0) -- ids may restart in a new epoch
end
redis.call('HSET', state, 'epoch', header.new_epoch, 'run', header.run, 'position', header.new_position, 'lsn', header.lsn,
  'flushed', header.flushed, 'database', header.database, 'rules', header.watermark.rules, 'applied_at', now_ms(),
  'log_bytes', 0, 'recovered', now_ms() .. ' ' .. (header.why or ''))
redis.call('HDEL', state, 'adopting', 'lives')
publish_watermark(state, header.new_epoch, header)
return { 'ok' }
