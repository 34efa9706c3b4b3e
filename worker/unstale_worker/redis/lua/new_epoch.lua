-- Begins a new epoch that continues from the stored position. Either another run answers (a replica was promoted), which
-- takes the position back together with the effects it stands for; or agents are to read the published rules again.
-- KEYS: state, log, and to publish rules: rules   ARGV: header, see `refusal`, and its fields channel, new_epoch, why (for people); the rules
-- Reply: { 'ok' } or { 'refused', reason }
local state, header = KEYS[1], cjson.decode(ARGV[1])
local reason = refusal(state, KEYS[2], header)
if reason then
  return { 'refused', reason }
end
if KEYS[3] then redis.call('SET', KEYS[3], ARGV[2]) end
local last = redis.call('HGET', state, 'last') or '0'
redis.call('HSET', state, 'epoch', header.new_epoch, 'run', live_run(), 'last', last,
  'renewed', now_ms() .. ' ' .. (header.why or ''))
publish(header.channel, '{"v":1,"epoch":"' .. header.new_epoch .. '","id":' .. last .. ',"prev":' .. last
  .. ',"keys":[],"patterns":[]}')
return { 'ok' }
