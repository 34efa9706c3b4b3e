-- Adds to the totals of refreshes over all processes.
-- KEYS: counts   ARGV: name, number, name, number ...      Reply: 1
if not has_type(KEYS[1], 'hash') then return 0 end
for at = 1, #ARGV, 2 do
  redis.call('HINCRBY', KEYS[1], ARGV[at], ARGV[at + 1])
end
return 1
