-- Stores refreshed values, each only if the lease taken for it still stands, and then ends its refresh.
-- A key whose lease is gone was invalidated meanwhile: it is due again.
-- Under other rules, which may name another loader, all leases are given up.
-- KEYS: refresh, dead letters, counts, state, then for each key: key, stale, failures, spare, fingerprint
-- ARGV: lease, milliseconds until a refused one is due again, hash of the rules, then for each key: value, milliseconds to live,
--   milliseconds that its spare value lives longer, 0: it has none; fingerprint of its inputs or '', milliseconds it lives,
--   tokens of the prompt and of the answer that it cost
-- Reply: for each key 1 stored, 0 the lease is gone
local refresh, dead, counts, state = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local current = has_type(state, 'hash') and string.match(redis.call('HGET', state, 'rules') or '', '^[^+]*') == ARGV[3]
local wanted = has_type(refresh, 'zset')
local buried = has_type(dead, 'hash') and redis.call('HLEN', dead) > 0
local again = string.format('%.0f', math.floor(clock_ms()) + tonumber(ARGV[2]))
local replies, filled = {}, 0
for at = 5, #KEYS, 5 do
  local key, argument = KEYS[at], 4 + (at - 5) / 5 * 7
  local ours = redis.call('TYPE', key)['ok'] == 'string' and redis.call('GET', key) == ARGV[1]
  if ours and current then
    redis.call('SET', key, ARGV[argument], 'PX', ARGV[argument + 1])
    redis.call('UNLINK', KEYS[at + 1], KEYS[at + 2])
    local longer = ARGV[argument + 2]
    if longer ~= '0' then -- see unstale/protocol/spares.py
      local life = string.format('%.0f', ARGV[argument + 1] + longer)
      redis.call('SET', KEYS[at + 3], longer .. '\n' .. ARGV[argument], 'PX', life)
    end
    if ARGV[argument + 3] == '' then
      redis.call('UNLINK', KEYS[at + 4])
    else -- a change that committed before this moment may have come between inputs and load: see refresh_rearm.lua
      local noted = ARGV[argument + 3] .. '\n' .. now_ms() .. '\n' .. redis.sha1hex(ARGV[argument])
        .. '\n' .. ARGV[argument + 1] .. '\n' .. ARGV[argument + 5] .. '\n' .. ARGV[argument + 6]
      redis.call('SET', KEYS[at + 4], noted, 'PX', ARGV[argument + 4])
    end
    if wanted then redis.call('ZREM', refresh, key) end
    if buried then redis.call('HDEL', dead, key) end
    filled = filled + 1
    replies[#replies + 1] = 1
  else
    if ours then redis.call('UNLINK', key) end
    if wanted then redis.call('ZADD', refresh, 'XX', again, key) end
    replies[#replies + 1] = 0
  end
end
if has_type(counts, 'hash') then
  if filled > 0 then redis.call('HINCRBY', counts, 'filled', filled) end
  if filled < #replies then redis.call('HINCRBY', counts, 'overtaken', #replies - filled) end
end
return replies
