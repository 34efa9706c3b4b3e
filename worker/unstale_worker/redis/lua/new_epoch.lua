-- Another run answers (a replica was promoted): begins a new epoch that continues from the stored position. A promotion takes
-- the position back together with the effects it stands for.
-- KEYS: state, log   ARGV: header, see `refusal`, and its fields channel, new_epoch      Reply: { 'ok' } or { 'refused', reason }
local state, header = KEYS[1], cjson.decode(ARGV[1])
local reason = refusal(state, KEYS[2], header)
if reason then
  return { 'refused', reason }
end
local last = redis.call('HGET', state, 'last') or '0'
redis.call('HSET', state, 'epoch', header.new_epoch, 'run', live_run(), 'last', last)
redis.call('PUBLISH', header.channel, '{"v":1,"epoch":"' .. header.new_epoch .. '","id":' .. last .. ',"prev":' .. last
  .. ',"keys":[],"patterns":[]}')
return { 'ok' }
