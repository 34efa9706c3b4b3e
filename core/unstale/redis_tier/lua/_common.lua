-- Shared by all scripts: the identity of the live server, the order of LSNs, and appending to the log.

-- The replication id of this server. It changes at every promotion and is never reused. '' if the server does not tell it,
-- because scripts of this user may not call INFO; see `refusal` and `append` for what protects then.
local function live_run()
  local info = redis.pcall('INFO', 'replication')
  return type(info) == 'string' and string.match(info, 'master_replid:(%x+)') or ''
end

-- Returns true if the WAL position a ('16/B374D848') is after b. A missing b is before everything.
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

-- Returns true if the key is missing or has the wanted type, so that writes to it cannot fail for its type. Redis does
-- not roll a script back, so check this before the first write.
local function has_type(key, wanted)
  local found = redis.call('TYPE', key)['ok']
  return found == wanted or found == 'none'
end

-- A tag's record holds a version, under the key 'unstale:tag:<tag>'. A lease that was acquired under tags, and a value that was
-- stored under such a lease, carry a header: '<version>:<length>:<tag>' of each tag, and a line feed. A value has TAGGED before
-- it and the JSON behind it. See unstale/protocol/tags.py.
local TAG, TAGGED, SOFT, RECORD_MS = 'unstale:tag:', '\0unstale:soft:tags\n', '\0unstale:soft:', 3600000

-- Returns the tags of such content with their versions, the header, and where the JSON begins; nil for any other content.
local function tags_of(content)
  if not content or string.byte(content, 1) ~= 0 then return nil end
  local first = string.match(content, '^%zunstale:%l+:%w+\n()')
  if not first then return nil end
  local at, tags = first, {}
  while true do
    local version, size, from = string.match(content, '^(%x+):(%d+):()', at)
    if not version then break end
    at = from + tonumber(size)
    tags[#tags + 1] = { record = TAG .. string.sub(content, from, at - 1), version = version }
  end
  return tags, string.sub(content, first, at), at + 1
end

-- Returns true if the record of each tag still holds its version. One that is missing holds none: the tag was invalidated,
-- or the record was evicted.
local function tags_stand(tags)
  for _, tag in ipairs(tags) do
    if redis.pcall('GET', tag.record) ~= tag.version then return false end
  end
  return true
end

-- Returns the header of the tags whose records are KEYS[first] and those behind it. Makes the missing ones, with the version
-- `fresh`, which no record has ever had; and lets each live for an hour at least.
local function tags_header(first, fresh)
  local parts = {}
  for at = first, #KEYS do
    local version = redis.pcall('GET', KEYS[at])
    if type(version) == 'string' and string.match(version, '^%x+$') then
      redis.call('PEXPIRE', KEYS[at], RECORD_MS, 'GT')
    else
      version = fresh
      redis.call('SET', KEYS[at], version, 'PX', RECORD_MS)
    end
    local name = string.sub(KEYS[at], #TAG + 1)
    parts[#parts + 1] = version .. ':' .. #name .. ':' .. name
  end
  return table.concat(parts) .. '\n'
end

-- Lets a tag's record live longer than a value that lives for `ms` from now on.
local function outlive(record, ms)
  redis.call('PEXPIRE', record, string.format('%.0f', tonumber(ms) + 1000), 'GT')
end

-- Milliseconds since 1970 by the server's clock. It is shown to users, and compared only with the same clock to find what
-- is due.
local function now_ms()
  local time = redis.call('TIME')
  return string.format('%.0f', tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000))
end

-- Publishes. In a cluster the channel is a sharded one, whose name says so.
local function publish(channel, message)
  redis.call(string.sub(channel, -8) == ':sharded' and 'SPUBLISH' or 'PUBLISH', channel, message)
end

-- Appends one log entry, publishes it as a message, and trims the log by bytes. Returns the entry's id.
-- The log keeps `reason` beside the message, for people, after the time in 6 bytes (see unstale/protocol/reasons.py), and
-- leaves out an empty list of patterns.
-- `run` is given by agents. On a server that does not tell its run, a failover may take an agent's entry back while the epoch
-- goes on. So that no other entry gets the id that some agents have seen, this one skips a random number of ids.
local function append(state, log, channel, epoch, keys, patterns, max_bytes, reason, run)
  local ids = run == '' and 2 + redis.call('TIME')[2] % 65536 or 1
  local last = redis.call('HINCRBY', state, 'last', ids)
  if last > 999999999999999 then
    error('UNSTALE the log id in the state is out of range; the worker begins a new history')
  end
  local body = '"keys":' .. keys .. ',"patterns":' .. patterns
  local id = string.format('%.0f-0', last)
  local kept = patterns == '[]' and '"keys":' .. keys or body
  local why = struct.pack('>I6', tonumber(now_ms())) .. (reason or '')
  if redis.pcall('XADD', log, id, 'm', kept, 'w', why)['err'] then
    -- The newest id of the log is not below ours, so the log belongs to another history. Agents notice that the new log
    -- does not reach back to their own position, and drop everything.
    redis.call('UNLINK', log)
    redis.call('XADD', log, id, 'm', kept, 'w', why)
  end
  local size = #kept + #why + 64
  if redis.call('XLEN', log) == 1 then
    -- This is the first entry, or the log was evicted: start counting bytes again.
    redis.call('HSET', state, 'log_bytes', size)
  else
    local bytes = redis.call('HINCRBY', state, 'log_bytes', size)
    if bytes > max_bytes then
      while bytes > max_bytes do
        local oldest = redis.call('XRANGE', log, '-', '+', 'COUNT', 1)[1]
        if not oldest then break end
        redis.call('XDEL', log, oldest[1])
        bytes = bytes - #oldest[2][2] - #(oldest[2][4] or '') - 64
      end
      redis.call('HSET', state, 'log_bytes', string.format('%.0f', bytes))
    end
  end
  publish(channel, string.format('{"v":1,"epoch":"%s","id":%.0f,"prev":%.0f,', epoch, last, last - ids)
    .. body .. '}')
  return last
end

-- Returns true if the epoch belongs to the live server. If it does not, agents do not hear of what the script removes. In a
-- cluster the slot may come back to the server of the epoch later, which must then not go on: its run is forgotten.
local function live_epoch(state, epoch, known_run, run)
  if not epoch then return false end
  if run == '' or known_run == run then return true end
  redis.call('HSET', state, 'run', 'none')
  return false
end

-- Raises need_lsn, the WAL position that a replica must have reached before loaders may read it.
local function raise_need_lsn(state, lsn)
  if lsn_after(lsn, redis.call('HGET', state, 'need_lsn')) then
    redis.call('HSET', state, 'need_lsn', lsn)
  end
end

-- Returns the reason why a worker's script must not run, or nil. Checks types, fence, run, epoch, position and stamp.
-- Header fields that are read:
--   fence
--   position: as it was read, '' if there was none
--   either epoch, which was read with the position and requires the run it belongs to; or run, as it was read; or neither
--   stamp, new_stamp: only on a server that does not tell its run. The stamp that this worker's own last script left, and
--     the one that this script leaves, a new one each. If a failover takes back anything that this worker knows of, it takes
--     back the stamp, too.
-- The header is JSON with all texts and large numbers as strings, because cjson decodes numbers as doubles.
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
  if header.stamp then
    if (redis.call('HGET', state, 'stamp') or '') ~= header.stamp then return 'stamp' end
    redis.call('HSET', state, 'stamp', header.new_stamp)
  end
  return nil
end

-- The server's clock in milliseconds, to the microsecond.
local function clock_ms()
  local time = redis.call('TIME')
  return tonumber(time[1]) * 1000 + tonumber(time[2]) / 1000
end

-- Age of a read in milliseconds: the larger of the worker's and the server's measurement. Otherwise a worker that was
-- paused between reading its clock and running this script would report an old read as fresh.
-- `began` is the server's time at which the read began, at the earliest, or nil.
local function true_age(age_ms, began)
  local age = tonumber(age_ms)
  local by_server = began and tonumber(began)
  if by_server then age = math.max(age, clock_ms() - by_server) end
  return string.format('%.3f', age)
end

-- Publishes a watermark. Header fields that are read: channel, lsn, flushed, database, and watermark with the fields
--   seen: the snapshot that was read
--   rules: hash of the rules
--   age_ms, began: see true_age
-- Stores in `read_at` when that read began, by the server's clock: what is read later committed after it. `read_epoch` says
-- in which epoch that was published: a promotion takes both back together with the effects.
local function publish_watermark(state, epoch, header)
  local mark, last = header.watermark, redis.call('HGET', state, 'last') or '0'
  local age = true_age(mark.age_ms, mark.began)
  redis.call('HSET', state, 'read_at', string.format('%.3f', clock_ms() - tonumber(age)), 'read_epoch', epoch)
  publish(header.channel, '{"v":1,"epoch":"' .. epoch .. '","last":' .. last .. ',"seen":"' .. mark.seen
    .. '","lsn":"' .. header.lsn .. '","rules":"' .. mark.rules .. '","flushed":"' .. header.flushed
    .. '","database":"' .. header.database .. '","age_ms":' .. age .. '}')
end

-- Publishes a watermark and returns the value of `primary_until` afterwards. It is cleared only if it equals
-- watermark.primary_until, which was read *before* the database: only then does the lsn cover the direct write that set
-- it.
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
