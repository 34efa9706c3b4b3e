-- One script of a batch: unlink, log, raise need_lsn, publish; the batch's last script also stores the position, and
-- may say the watermark that is true from then on.
-- KEYS: state, log, the keys to unlink..., and if keys of it are made new when they change: the refresh set, and of each
--       such key its name and that of its stale value
-- ARGV: 1 channel, 2 fence, 3 epoch, 4 stored position, 5 keys as JSON, 6 patterns as JSON, 7 log bytes, 8 lsn,
--       and for the last script: 9 new position, 10 flushed lsn, 11 database,
--       and for a watermark: 12 snapshot read, 13 hash of the rules, 14 age in ms, 15 primary_until read before the database,
--       16 server's clock in ms when the read began, at the earliest,
--       and for keys that are made new (what is not said before is ''): 17 how many, 18 most members of the refresh set,
--       then of each group of them: how many, ms the old value is served (-1: a purge), ms until it is due, '1' only if cached
-- Reply: { 'ok', log id, unlinked, primary_until or '', server's clock in ms } or { 'refused', reason }
local state, log = KEYS[1], KEYS[2]
local reason = refusal(state, log, ARGV[2], ARGV[3], ARGV[4])
if reason then
  return { 'refused', reason }
end
local unlinked, id, pending = 0, 0, ''
local plain = ARGV[17] and #KEYS - 2 * tonumber(ARGV[17]) - 1 or #KEYS
if plain > 2 then
  unlinked = redis.call('UNLINK', unpack(KEYS, 3, plain))
end
if ARGV[17] then
  local set, at, now = KEYS[plain + 1], plain + 2, tonumber(now_ms())
  if not has_type(set, 'zset') then redis.call('UNLINK', set) end
  for group = 19, #ARGV, 4 do
    local serve, due = tonumber(ARGV[group + 1]), string.format('%.0f', now + tonumber(ARGV[group + 2]))
    local always, wanted = ARGV[group + 3] ~= '1', {}
    for _ = 1, tonumber(ARGV[group]) do
      local key, stale = KEYS[at], KEYS[at + 1]
      at = at + 2
      local first = redis.pcall('GETRANGE', key, 0, 0) -- '' when there is none, an error when it is no string
      local value = type(first) == 'string' and first ~= '' and first ~= '\0' -- a lease begins with NUL
      if value and serve > 0 then
        redis.call('RENAME', key, stale)
        redis.call('PEXPIRE', stale, serve) -- from now: it was true until this change
        unlinked = unlinked + 1
      else
        unlinked = unlinked + redis.call('UNLINK', key)
      end
      if serve < 0 then
        unlinked = unlinked + redis.call('UNLINK', stale)
        redis.call('ZREM', set, key)
      elseif value or always or redis.call('EXISTS', stale) == 1 then
        wanted[#wanted + 1] = due
        wanted[#wanted + 1] = key
      end
    end
    for from = 1, #wanted, 1000 do -- NX: a burst is due when its first change is
      redis.call('ZADD', set, 'NX', unpack(wanted, from, math.min(from + 999, #wanted)))
    end
  end
  local over = redis.call('ZCARD', set) - tonumber(ARGV[18])
  if over > 0 then redis.call('ZREMRANGEBYRANK', set, 0, over - 1) end
end
if ARGV[5] ~= '[]' or ARGV[6] ~= '[]' then
  if lsn_after(ARGV[8], redis.call('HGET', state, 'need_lsn')) then
    redis.call('HSET', state, 'need_lsn', ARGV[8])
  end
  id = append(state, log, ARGV[1], ARGV[3], ARGV[5], ARGV[6], tonumber(ARGV[7]))
end
if ARGV[9] and ARGV[9] ~= '' then
  redis.call('HSET', state, 'position', ARGV[9], 'lsn', ARGV[8], 'flushed', ARGV[10], 'database', ARGV[11],
    'applied_at', now_ms())
end
if ARGV[12] and ARGV[12] ~= '' then
  pending = say(state, ARGV[1], ARGV[3], ARGV[12], ARGV[8], ARGV[13], ARGV[14], ARGV[15], ARGV[16],
    ARGV[10], ARGV[11])
end
return { 'ok', id, unlinked, pending, string.format('%.3f', clock_ms()) }
