-- Acquires the leases of claimed keys, as a reader's loader acquires one, if their refresh is still wanted.
-- KEYS: refresh, state, keys...
-- ARGV: lease, milliseconds it lives, first bytes of a soft lease, first byte of a marker, milliseconds to wait without an
--       epoch, most milliseconds to wait for another loader's lease, hash of the rules that name the loader
-- Reply: for each key  1: acquired
--                      0: the key is not in the refresh set any more
--                      2: a value stands at the key, which left the refresh set with this
--                     -n: due again in n ms: another loader holds the lease, there is no live epoch (nothing may be stored
--                         then), or other rules are in force, which may name another loader
local refresh, state = KEYS[1], KEYS[2]
local now = math.floor(clock_ms())
local known = has_type(state, 'hash') and redis.call('HMGET', state, 'epoch', 'rules') or {}
local live = known[1] and known[1] ~= '' and string.match(known[2] or '', '^[^+]*') == ARGV[7]
local wanted = has_type(refresh, 'zset')
local verdicts = {}
local function later(key, wait)
  redis.call('ZADD', refresh, 'XX', string.format('%.0f', now + wait), key)
  return -wait
end
for at = 3, #KEYS do
  local key, verdict = KEYS[at], 0
  if wanted and redis.call('ZSCORE', refresh, key) then
    if not live then
      verdict = later(key, tonumber(ARGV[5]))
    else
      local kind = redis.call('TYPE', key)['ok']
      local found = kind == 'string' and redis.call('GET', key)
      if kind ~= 'string' and kind ~= 'none' then
        redis.call('ZREM', refresh, key)
      elseif not found or string.sub(found, 1, #ARGV[3]) == ARGV[3] then
        redis.call('SET', key, ARGV[1], 'PX', ARGV[2])
        verdict = 1
      elseif string.sub(found, 1, 1) == ARGV[4] then
        local life = redis.call('PTTL', key)
        local most = tonumber(ARGV[6])
        verdict = later(key, (life < 1 or life > most) and most or life)
      else
        redis.call('ZREM', refresh, key)
        verdict = 2
      end
    end
  end
  verdicts[#verdicts + 1] = verdict
end
return verdicts
