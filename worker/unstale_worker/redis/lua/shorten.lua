-- Lets stored values live no longer than a TTL that is shorter than the one they were stored with.
-- KEYS: state, log, keys...   ARGV: header, see `refusal`, and its field most: milliseconds     Reply: { 'ok' } or { 'refused', reason }
local header = cjson.decode(ARGV[1])
local reason = refusal(KEYS[1], KEYS[2], header)
if reason then
  return { 'refused', reason }
end
for at = 3, #KEYS do
  if redis.call('PTTL', KEYS[at]) > header.most then -- a key without a TTL is none of ours
    redis.call('PEXPIRE', KEYS[at], header.most)
  end
end
return { 'ok' }
