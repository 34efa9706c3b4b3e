-- Direct invalidation by an agent: unlink, log, raise need_lsn and publish, without moving the position.
-- KEYS: state, log, the keys to unlink..., their stale and spare values...
-- ARGV: channel, lsn or '', keys as JSON, patterns as JSON, log bytes, how many of the keys are stale and spare values, reason
-- Reply: { number of keys unlinked, without those; log id }. The id is 0 if there is no live epoch: then the worker
-- will begin a new one, which makes agents drop everything.
local state, log = KEYS[1], KEYS[2]
if not has_type(state, 'hash') or not has_type(log, 'stream') then
  return redis.error_reply('UNSTALE the state or log key holds another type; delete it')
end
local unlinked = 0
local last = #KEYS - tonumber(ARGV[6])
if last > 2 then
  unlinked = redis.call('UNLINK', unpack(KEYS, 3, last))
end
if #KEYS > last then
  redis.call('UNLINK', unpack(KEYS, last + 1))
end
local known = redis.call('HMGET', state, 'epoch', 'run', 'need_lsn')
local run = live_run()
if not live_epoch(state, known[1], known[2], run) then
  return { unlinked, 0 }
end
local id = append(state, log, ARGV[1], known[1], ARGV[3], ARGV[4], tonumber(ARGV[5]), ARGV[7], run)
if ARGV[2] == '' then
  redis.call('HSET', state, 'primary_until', string.format('%.0f', id))
elseif lsn_after(ARGV[2], known[3]) then
  redis.call('HSET', state, 'need_lsn', ARGV[2])
end
return { unlinked, id }
