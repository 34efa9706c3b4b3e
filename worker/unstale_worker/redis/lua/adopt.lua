-- Puts other rules in force without dropping what did not change; runs before and after the keys of the changed patterns are
-- dropped. The first run stores what is still to be dropped, so that a leader that comes after a crash goes on. Until the
-- second run no rules are in force, so put.lua stores no key that the new rules may own. The second run lets agents read the rules, as no old value is left.
-- KEYS: state, log, and in the second run: rules
-- ARGV: header, and in the second run the rules as JSON. Fields of the header, beside those that `refusal` reads:
--   adopting: in the first run, see `Adopting`; rules: in the second run, the hash of the rules; lives: in the second run, the
--     globs of keys that are still to be shortened, as a JSON array
-- Reply: { 'ok' } or { 'refused', reason }
local state, header = KEYS[1], cjson.decode(ARGV[1])
local reason = refusal(state, KEYS[2], header)
if reason then
  return { 'refused', reason }
end
if KEYS[3] then
  redis.call('SET', KEYS[3], ARGV[2])
  redis.call('HSET', state, 'rules', header.rules)
  redis.call('HDEL', state, 'adopting')
  if header.lives then redis.call('HSET', state, 'lives', header.lives) end
else
  redis.call('HSET', state, 'rules', 'adopting', 'adopting', header.adopting) -- the hash of no rules
end
return { 'ok' }
