-- Says up to where everything is applied.
-- KEYS: state, log
-- ARGV: 1 channel, 2 fence, 3 epoch, 4 stored position, 5 snapshot read, 6 lsn, 7 hash of the rules, 8 age in ms,
--       9 primary_until read before the database, 10 server's clock in ms when the read began, at the earliest,
--       or '', 11 flushed lsn, 12 database
-- Reply: { 'ok', primary_until or '', server's clock in ms } or { 'refused', reason }
local reason = refusal(KEYS[1], KEYS[2], ARGV[2], ARGV[3], ARGV[4])
if reason then
  return { 'refused', reason }
end
local pending = say(KEYS[1], ARGV[1], ARGV[3], ARGV[5], ARGV[6], ARGV[7], ARGV[8], ARGV[9],
  ARGV[10], ARGV[11], ARGV[12])
return { 'ok', pending, string.format('%.3f', clock_ms()) }
