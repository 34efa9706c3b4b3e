-- Reads the epoch, the last id and the log entries after an id, in one atomic step.
-- KEYS: state, log   ARGV: last id seen, most entries to return
-- Reply: { epoch, last, complete, entries, stands }. complete is 1 if the entries are all those after the id. stands is 1
-- if the epoch was begun by this server in its present run.
if not has_type(KEYS[1], 'hash') or not has_type(KEYS[2], 'stream') then
  return { false, 0, 0, {}, 0 }
end
local known = redis.call('HMGET', KEYS[1], 'epoch', 'last', 'run')
local last, seen = tonumber(known[2] or 0), tonumber(ARGV[1])
if not known[1] then
  return { false, last, 0, {}, 0 }
end
local info = redis.pcall('INFO', 'replication') -- without this permission, an agent trusts Redis only after a watermark
local stands = not info['err'] and known[3] == string.match(info, 'master_replid:(%x+)') and 1 or 0
if last <= seen then
  return { known[1], last, 1, {}, stands }
end
if last - seen > tonumber(ARGV[2]) then
  return { known[1], last, 0, {}, stands }
end
local entries = redis.call('XRANGE', KEYS[2], string.format('%.0f', seen + 1), '+')
return { known[1], last, #entries == last - seen and 1 or 0, entries, stands }
