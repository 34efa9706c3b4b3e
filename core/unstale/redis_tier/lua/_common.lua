-- Shared by every script: the live server's identity, LSN order, and one log entry with its message.

-- The replication id changes at every promotion and never comes back (model F1).
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

-- Scripts are not rolled back, so what they write to is checked before the first write.
local function has_type(key, wanted)
  local found = redis.call('TYPE', key)['ok']
  return found == wanted or found == 'none'
end

-- Appends one log entry and publishes the message that says the same; returns its id. Trims the log by bytes.
local function append(state, log, channel, epoch, keys, patterns, max_bytes)
  local last = redis.call('HINCRBY', state, 'last', 1)
  if last > 999999999999999 then
    error('UNSTALE the log id in the state is out of range; the worker begins a new history')
  end
  local body = '"keys":' .. keys .. ',"patterns":' .. patterns
  local id = string.format('%.0f-0', last)
  if redis.pcall('XADD', log, id, 'm', body)['err'] then
    -- Its newest id is not below ours: it is not this history's. Agents see that the log does not reach back, and drop all.
    redis.call('UNLINK', log)
    redis.call('XADD', log, id, 'm', body)
  end
  local size = #body + 64
  if redis.call('XLEN', log) == 1 then
    -- The first entry, or the log was evicted: what was counted before is gone.
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

-- Why a worker's script must not run, or nil: types, fence, run, epoch, position, in this order.
-- An absent field equals ''. `epoch` and `position` are those that were read together.
local function refusal(state, log, fence, epoch, position)
  if not has_type(state, 'hash') or not has_type(log, 'stream') then return 'type' end
  local known = redis.call('HMGET', state, 'fence', 'run', 'epoch', 'position')
  if (known[1] or '') ~= fence then return 'fence' end
  if epoch ~= false then
    if known[2] ~= live_run() then return 'run' end
    if (known[3] or '') ~= epoch then return 'epoch' end
  end
  if (known[4] or '') ~= position then return 'position' end
  return nil
end

-- Milliseconds since 1970 by the server's clock: shown to people, and compared only with the same clock, for what is due.
local function now_ms()
  local time = redis.call('TIME')
  return string.format('%.0f', tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000))
end

local function publish_watermark(state, channel, epoch, seen, lsn, rules, age_ms, flushed, database)
  local last = redis.call('HGET', state, 'last') or '0'
  redis.call('PUBLISH', channel, '{"v":1,"epoch":"' .. epoch .. '","last":' .. last .. ',"seen":"' .. seen
    .. '","lsn":"' .. lsn .. '","rules":"' .. rules .. '","flushed":"' .. (flushed or '')
    .. '","database":"' .. (database or '') .. '","age_ms":' .. age_ms .. '}')
end

-- The server's clock in milliseconds, to the microsecond.
local function clock_ms()
  local time = redis.call('TIME')
  return tonumber(time[1]) * 1000 + tonumber(time[2]) / 1000
end

-- How old a read is: what the worker says, or what the server's clock says if that is more. A worker that was paused
-- between its own look at the clock and this script would otherwise call an old read fresh. `began` is the server's
-- time when the read began, at the earliest, or nil.
local function true_age(age_ms, began)
  local age = tonumber(age_ms)
  local by_server = began and tonumber(began)
  if by_server then age = math.max(age, clock_ms() - by_server) end
  return string.format('%.3f', age)
end

-- Publishes a watermark, and returns the `primary_until` that stands afterwards. That is cleared only if it is the one
-- that was read *before* the read of the database, so that the lsn covers the direct write that set it.
local function say(state, channel, epoch, seen, lsn, rules, age_ms, primary_read, began, flushed, database)
  local pending = redis.call('HGET', state, 'primary_until') or ''
  if pending ~= '' and pending == primary_read then
    if lsn_after(lsn, redis.call('HGET', state, 'need_lsn')) then
      redis.call('HSET', state, 'need_lsn', lsn)
    end
    redis.call('HDEL', state, 'primary_until')
    pending = ''
  end
  redis.call('HSET', state, 'applied_at', now_ms())
  publish_watermark(state, channel, epoch, seen, lsn, rules, true_age(age_ms, began), flushed, database)
  return pending
end
