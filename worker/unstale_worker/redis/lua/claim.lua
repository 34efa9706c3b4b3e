-- Claims this Redis database for one namespace, as the names of cached keys are the same in every namespace.
-- KEYS: claim, state, rules   ARGV: namespace, milliseconds of silence after which the claim of another one is void
-- Reply: { 1, namespace that the claim was taken over from, or '' }, or { 0, namespace that holds it }
-- A namespace that does not hold the claim has no history here: without its state its agents and refresh workers store
-- nothing. The rules of the one taken over from become the published rules, so that recovery drops its keys, too.
if not has_type(KEYS[1], 'hash') then redis.call('UNLINK', KEYS[1]) end
local now = tonumber(now_ms())
local known = redis.call('HMGET', KEYS[1], 'namespace', 'seen')
local before, seen = known[1], tonumber(known[2] or '') or 0
if not before or before == ARGV[1] then
  before = ''
elseif math.abs(now - seen) < tonumber(ARGV[2]) then -- a clock that was set back must not block for longer
  redis.call('UNLINK', KEYS[2])
  return { 0, before }
else
  redis.call('UNLINK', KEYS[2])
  -- Named here, as only the claim knows them. A user without the right to them leaves them as they are.
  redis.pcall('UNLINK', '{' .. before .. ':0}:state')
  redis.pcall('RENAME', '{' .. before .. ':0}:rules', KEYS[3])
end
redis.call('HSET', KEYS[1], 'namespace', ARGV[1], 'seen', string.format('%.0f', now))
return { 1, before }
