-- Puts the published rules back if they were evicted, deleted or overwritten: an agent that starts reads them from here.
-- KEYS: state, log, rules
-- ARGV: header, see `refusal`; SHA-1 of the rules as JSON; the rules as JSON, or '' to only compare
-- Reply: { 'ok', 1 if the rules stand, else 0 } or { 'refused', reason }
local reason = refusal(KEYS[1], KEYS[2], cjson.decode(ARGV[1]))
if reason then
  return { 'refused', reason }
end
if has_type(KEYS[3], 'string') and redis.sha1hex(redis.call('GET', KEYS[3]) or '') == ARGV[2] then
  return { 'ok', 1 }
end
if ARGV[3] == '' then
  return { 'ok', 0 }
end
redis.call('SET', KEYS[3], ARGV[3])
return { 'ok', 1 }
