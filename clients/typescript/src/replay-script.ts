/**
 * The atomic read of the log: `replay.lua` of the Python client with the two helpers that it calls. A test of the
 * repository compares them.
 */
export const REPLAY = `#!lua flags=no-writes
local function live_run()
  local info = redis.pcall('INFO', 'replication')
  return type(info) == 'string' and string.match(info, 'master_replid:(%x+)') or ''
end
local function has_type(key, wanted)
  local found = redis.call('TYPE', key)['ok']
  return found == wanted or found == 'none'
end
-- Reads the epoch, the last id, the log entries after an id and the newest watermark, in one atomic step.
-- KEYS: state, log   ARGV: last id seen, most entries to return
-- Reply: { epoch, last, complete, entries, stands, age, rules }
--   complete: 1 if the entries are all those after the id
--   stands: 1 if the epoch was begun by this server in its present run; -1 if that cannot be told (see \`live_run\`)
--   age: milliseconds since the read began that the newest watermark announced, by this server's clock; '' if none was
--     published in this epoch and run; 'inf' without the permission to read the clock
--   rules: hash of the rules in force
if not has_type(KEYS[1], 'hash') or not has_type(KEYS[2], 'stream') then
  return { false, 0, 0, {}, 0, '', '' }
end
local known = redis.call('HMGET', KEYS[1], 'epoch', 'last', 'run', 'read_epoch', 'read_at', 'rules')
local last, seen = tonumber(known[2] or 0), tonumber(ARGV[1])
if not known[1] then
  return { false, last, 0, {}, 0, '', '' }
end
local run = live_run()
local stands = run == '' and -1 or known[3] == run and 1 or 0
local read_at, age = tonumber(known[5] or ''), ''
if stands == 1 and known[4] == known[1] and read_at then
  local time = redis.pcall('TIME')
  age = time['err'] and 'inf' or string.format('%.3f', tonumber(time[1]) * 1000 + tonumber(time[2]) / 1000 - read_at)
end
local complete, entries = 1, {}
if last - seen > tonumber(ARGV[2]) then
  complete = 0
elseif last > seen then
  entries = redis.call('XRANGE', KEYS[2], string.format('%.0f', seen + 1), '+')
  complete = #entries == last - seen and 1 or 0
end
return { known[1], last, complete, entries, stands, age, known[6] or '' }
`;
