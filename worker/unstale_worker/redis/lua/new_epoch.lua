-- Another run (a promotion): a new epoch, continuing from the stored position, which went back with the effects.
-- KEYS: state, log   ARGV: channel, fence, position read, new epoch, hash of the rules      Reply: { 'ok' } or { 'refused', reason }
local state = KEYS[1]
local reason = refusal(state, KEYS[2], ARGV[2], false, ARGV[3])
if reason then
  return { 'refused', reason }
end
local last = redis.call('HGET', state, 'last') or '0'
redis.call('HSET', state, 'epoch', ARGV[4], 'run', live_run(), 'last', last)
redis.call('PUBLISH', ARGV[1], '{"v":1,"epoch":"' .. ARGV[4] .. '","id":' .. last .. ',"prev":' .. last
  .. ',"keys":[],"patterns":[]}')
return { 'ok' }
