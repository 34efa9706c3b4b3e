-- A refresh failed: it is due again after a pause that doubles; or, after its last attempt, it is a dead letter and the key
-- stays invalidated: neither an old value nor a stale one is left.
-- KEYS: refresh, dead letters, counts, key, stale, failures
-- ARGV: lease, attempts in all, first pause in ms, longest pause in ms, milliseconds failures are remembered,
--       the dead letter's JSON without its last fields and brace, most dead letters
-- Reply: { attempts so far, milliseconds until it is due again, or -1: dead, or -2: it is not wanted any more }
local refresh, dead, counts, key, stale, failures = unpack(KEYS)
local ours = redis.call('TYPE', key)['ok'] == 'string' and redis.call('GET', key) == ARGV[1]
if ours then redis.call('UNLINK', key) end
if not has_type(refresh, 'zset') or not redis.call('ZSCORE', refresh, key) then return { 0, -2 } end
if has_type(counts, 'hash') then redis.call('HINCRBY', counts, 'failed', 1) end
if not has_type(failures, 'string') then redis.call('UNLINK', failures) end
local attempts = redis.pcall('INCR', failures)
if type(attempts) ~= 'number' then
  redis.call('SET', failures, '1')
  attempts = 1
end
redis.call('PEXPIRE', failures, ARGV[5])
if attempts < tonumber(ARGV[2]) then
  local pause = math.min(tonumber(ARGV[4]), tonumber(ARGV[3]) * 2 ^ math.min(attempts - 1, 30))
  redis.call('ZADD', refresh, 'XX', string.format('%.0f', math.floor(clock_ms()) + pause), key)
  return { attempts, math.floor(pause) }
end
redis.call('ZREM', refresh, key)
redis.call('UNLINK', stale, failures)
if has_type(dead, 'hash') then
  if redis.call('HLEN', dead) >= tonumber(ARGV[7]) and redis.call('HEXISTS', dead, key) == 0 then
    redis.call('HDEL', dead, redis.call('HRANDFIELD', dead))
  end
  redis.call('HSET', dead, key, ARGV[6] .. ',"attempts":' .. attempts .. ',"at":' .. now_ms() .. '}')
end
if has_type(counts, 'hash') then redis.call('HINCRBY', counts, 'dead', 1) end
return { attempts, -1 }
