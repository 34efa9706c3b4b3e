-- Publishes up to where everything is applied.
-- KEYS: state, log
-- ARGV: header. Its fields, beside those that `refusal` reads: channel, lsn, flushed, database; watermark: see `publish_seen`
-- Reply: { 'ok', primary_until or '', server's clock in ms } or { 'refused', reason }
local header = cjson.decode(ARGV[1])
local reason = refusal(KEYS[1], KEYS[2], header)
if reason then
  return { 'refused', reason }
end
return { 'ok', publish_seen(KEYS[1], header), string.format('%.3f', clock_ms()) }
