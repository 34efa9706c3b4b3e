-- One script of a batch: unlinks keys, logs and publishes them, raises need_lsn. The batch's last script also stores the
-- position, and may publish the watermark that is true from then on.
-- KEYS: state, log, the keys to unlink..., and with `refresh`: the refresh set, then of each key to refresh its name and the
--       name of its stale value, and in a group with `spare_ms` the name of its spare value
-- ARGV: header, keys as JSON, patterns as JSON, reason. Fields of the header, beside those that `refusal` reads:
--   channel, lsn
--   log_bytes: a number, most bytes of the log
--   new_position, flushed, database: in the batch's last script
--   watermark: see `publish_seen`
--   broken: tables that are not captured, as a JSON array; in the last script of an invalidation for their sake
--   refresh: { most: members that the refresh set may have, groups: [{ keys: how many, serve_ms: how long the old value may
--     be served after the commit of its change, -1 to purge it, due_ms: until the refresh is due, only_if_cached: true or false,
--     spare_ms: how long a spare value may be answered after that commit, 0: there is none, refreshed: false if the key is not
--     refreshed }, ...] }
-- Reply: { 'ok', log id, unlinked, primary_until or '', server's clock in ms } or { 'refused', reason }
local state, log, header = KEYS[1], KEYS[2], cjson.decode(ARGV[1])
local reason = refusal(state, log, header)
if reason then
  return { 'refused', reason }
end
local unlinked, id, pending = 0, 0, ''
local refresh, plain = header.refresh, #KEYS
if refresh then
  plain = plain - 1
  for _, group in ipairs(refresh.groups) do plain = plain - (group.spare_ms > 0 and 3 or 2) * group.keys end
end
if plain > 2 then
  unlinked = redis.call('UNLINK', unpack(KEYS, 3, plain))
end
if refresh then
  local set, at, now = KEYS[plain + 1], plain + 2, tonumber(now_ms())
  -- Every change of this batch committed after `read_at`. That may be long ago, if no worker ran meanwhile.
  local read_at = tonumber(redis.call('HGET', state, 'read_at') or '')
  local elapsed = read_at and math.max(0, now - read_at) or math.huge
  if not has_type(set, 'zset') then redis.call('UNLINK', set) end
  for _, group in ipairs(refresh.groups) do
    local due, wanted = string.format('%.0f', now + group.due_ms), {}
    for _ = 1, group.keys do
      local key, stale = KEYS[at], KEYS[at + 1]
      at = at + 2
      local first = redis.pcall('GETRANGE', key, 0, 0) -- '' if the key is absent, an error if it holds no string
      local value = type(first) == 'string' and first ~= '' and first ~= '\0' -- a lease begins with NUL
      local life = math.floor(group.serve_ms - elapsed)
      if value and life > 0 then
        redis.call('RENAME', key, stale)
        redis.call('PEXPIRE', stale, life)
        unlinked = unlinked + 1
      else
        unlinked = unlinked + redis.call('UNLINK', key)
      end
      if group.spare_ms > 0 then
        local left = math.floor(group.spare_ms - elapsed)
        if group.serve_ms < 0 or left <= 0 then
          redis.call('UNLINK', KEYS[at])
        else -- its end may only come nearer
          redis.call('PEXPIRE', KEYS[at], left, 'LT')
        end
        at = at + 1
      end
      if group.serve_ms < 0 then
        unlinked = unlinked + redis.call('UNLINK', stale)
        redis.call('ZREM', set, key)
      elseif group.refreshed and (value or not group.only_if_cached or redis.call('EXISTS', stale) == 1) then
        wanted[#wanted + 1] = due
        wanted[#wanted + 1] = key
      end
    end
    for from = 1, #wanted, 1000 do -- NX: a burst of changes is due when its first change is
      redis.call('ZADD', set, 'NX', unpack(wanted, from, math.min(from + 999, #wanted)))
    end
  end
  local over = redis.call('ZCARD', set) - refresh.most
  if over > 0 then redis.call('ZREMRANGEBYRANK', set, 0, over - 1) end
end
if ARGV[2] ~= '[]' or ARGV[3] ~= '[]' then
  raise_need_lsn(state, header.lsn)
  id = append(state, log, header.channel, header.epoch, ARGV[2], ARGV[3], header.log_bytes, ARGV[4])
end
if header.broken then
  redis.call('HSET', state, 'broken', header.broken)
end
if header.new_position then
  redis.call('HSET', state, 'position', header.new_position, 'lsn', header.lsn, 'flushed', header.flushed,
    'database', header.database, 'applied_at', now_ms())
end
if header.watermark then
  pending = publish_seen(state, header)
end
return { 'ok', id, unlinked, pending, string.format('%.3f', clock_ms()) }
