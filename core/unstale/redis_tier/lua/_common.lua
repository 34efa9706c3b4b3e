-- Shared by every script: the live server's identity, LSN order, and one log entry with its message.

-- The replication id changes at every promotion and never comes back.
local function live_run()
  return string.match(redis.call('INFO', 'replication'), 'master_replid:(%x+)')
end

-- Is the WAL position a ('16/B374D848') after b? An absent b is before everything.
local function lsn_after(a, b)
  if not b or b == '' then return a ~= '' end
  if a == '' then return false end
  local a_high, a_low = string.match(a, '^(%x+)/(%x+)$')
  local b_high, b_low = string.match(b, '^(%x+)/(%x+)$')
  if not b_high then return true end
  if not a_high then return false end
  a_high, b_high = tonumber(a_high, 16), tonumber(b_high, 16)
  if a_high ~= b_high then return a_high > b_high end
  return tonumber(a_low, 16) > tonumber(b_low, 16)
end

-- True if the writes of a script to this key will not fail for its type. Redis does not roll a script back, so it is
-- checked before the first write.
local function has_type(key, wanted)
  local found = redis.call('TYPE', key)['ok']
  return found == wanted or found == 'none'
end

-- Appends one log entry, publishes the same as a message, and trims the log by bytes; returns the entry's id.
local function append(state, log, channel, epoch, keys, patterns, max_bytes)
  local last = redis.call('HINCRBY', state, 'last', 1)
  if last > 999999999999999 then
    error('UNSTALE the log id in the state is out of range; the worker begins a new history')
  end
  local body = '"keys":' .. keys .. ',"patterns":' .. patterns
  local id = string.format('%.0f-0', last)
  if redis.pcall('XADD', log, id, 'm', body)['err'] then
    -- The log's newest id is not below ours, so it is of another history. Agents see that the new log does not reach back
    -- to where they are, and drop everything.
    redis.call('UNLINK', log)
    redis.call('XADD', log, id, 'm', body)
  end
  local size = #body + 64
  if redis.call('XLEN', log) == 1 then
    -- The first entry, or the log was evicted: the bytes counted before are gone.
    redis.call('HSET', state, 'log_bytes', size)
  else
    local bytes = redis.call('HINCRBY', state, 'log_bytes', size)
    if bytes > max_bytes then
      while bytes > max_bytes do
        local oldest = redis.call('XRANGE', log, '-', '+', 'COUNT', 1)[1]
        if not oldest then break end
        redis.call('XDEL', log, oldest[1])
        bytes = bytes - #oldest[2][2] - 64
      end
      redis.call('HSET', state, 'log_bytes', string.format('%.0f', bytes))
    end
  end
  redis.call('PUBLISH', channel, string.format('{"v":1,"epoch":"%s","id":%.0f,"prev":%.0f,', epoch, last, last - 1)
    .. body .. '}')
  return last
end

-- Raises need_lsn, the WAL position that a replica must have reached before loaders may read it.
local function raise_need_lsn(state, lsn)
  if lsn_after(lsn, redis.call('HGET', state, 'need_lsn')) then
    redis.call('HSET', state, 'need_lsn', lsn)
  end
end

-- Why a worker's script must not run, or nil. Checks types, fence, run, epoch and position.
-- Reads of the header: fence; position, as it was read, '' if there was none; and either epoch, which was read together
-- with the position and requires the run it belongs to, or run, which was read then, or neither.
-- The header is JSON with every text and every large number as a string: cjson reads all numbers as doubles.
local function refusal(state, log, header)
  if not has_type(state, 'hash') or not has_type(log, 'stream') then return 'type' end
  local known = redis.call('HMGET', state, 'fence', 'run', 'epoch', 'position')
  if (known[1] or '') ~= header.fence then return 'fence' end
  if header.epoch then
    if known[2] ~= live_run() then return 'run' end
    if (known[3] or '') ~= header.epoch then return 'epoch' end
  end
  if (known[4] or '') ~= header.position then return 'position' end
  if header.run and header.run ~= live_run() then return 'run' end
  return nil
end

-- Milliseconds since 1970 by the server's clock: for people, and compared only with the same clock, for what is due.
local function now_ms()
  local time = redis.call('TIME')
  return string.format('%.0f', tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000))
end

-- The server's clock in milliseconds, to the microsecond.
local function clock_ms()
  local time = redis.call('TIME')
  return tonumber(time[1]) * 1000 + tonumber(time[2]) / 1000
end

-- Age of a read in milliseconds: as the worker measured it, or as the server's clock measures it if that is more. A worker
-- that was paused between its look at the clock and this script would otherwise call an old read fresh.
-- `began` is the server's time when the read began, at the earliest, or nil.
local function true_age(age_ms, began)
  local age = tonumber(age_ms)
  local by_server = began and tonumber(began)
  if by_server then age = math.max(age, clock_ms() - by_server) end
  return string.format('%.3f', age)
end

-- Publishes a watermark. Reads of the header: channel, lsn, flushed, database, and watermark with the fields
--   seen: the snapshot that was read
--   rules: hash of the rules
--   age_ms, began: see true_age
local function publish_watermark(state, epoch, header)
  local mark, last = header.watermark, redis.call('HGET', state, 'last') or '0'
  redis.call('PUBLISH', header.channel, '{"v":1,"epoch":"' .. epoch .. '","last":' .. last .. ',"seen":"' .. mark.seen
    .. '","lsn":"' .. header.lsn .. '","rules":"' .. mark.rules .. '","flushed":"' .. header.flushed
    .. '","database":"' .. header.database .. '","age_ms":' .. true_age(mark.age_ms, mark.began) .. '}')
end

-- Publishes a watermark and returns the `primary_until` that stands afterwards. It is cleared only if it equals
-- watermark.primary_until, which was read *before* the database was: only then does the lsn cover the direct write that
-- set it.
local function publish_seen(state, header)
  local pending = redis.call('HGET', state, 'primary_until') or ''
  if pending ~= '' and pending == header.watermark.primary_until then
    raise_need_lsn(state, header.lsn)
    redis.call('HDEL', state, 'primary_until')
    pending = ''
  end
  redis.call('HSET', state, 'applied_at', now_ms())
  publish_watermark(state, header.epoch, header)
  return pending
end
