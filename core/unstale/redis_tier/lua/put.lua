-- Stores a value that no rule owns, and invalidates it in every instance: set, log, publish.
-- KEYS: state, log, key, claim, the key's spare value, the record of each tag...
-- ARGV: channel, value, milliseconds to live, keys as JSON, log bytes, hash of the agent's rules, namespace, reason,
--   and with tags the version of a record that is missing
-- Reply: log id and epoch. 0 and '' if there is no live epoch: the value is stored but not announced, because agents are
-- detached or about to flush. -1 and '' if other rules are in force: nothing is stored, because they may own the key.
-- -2 and '' if another namespace uses this database: nothing is stored, because its agents would read it.
local state, log = KEYS[1], KEYS[2]
if not has_type(state, 'hash') or not has_type(log, 'stream') then
  return redis.error_reply('UNSTALE the state or log key holds another type; delete it')
end
if not has_type(KEYS[4], 'hash') or (redis.call('HGET', KEYS[4], 'namespace') or ARGV[7]) ~= ARGV[7] then
  return { -2, '' }
end
local known = redis.call('HMGET', state, 'epoch', 'run', 'rules')
if known[3] and known[3] ~= ARGV[6] then
  return { -1, '' }
end
local value = ARGV[2]
if #KEYS > 5 then
  value = TAGGED .. tags_header(6, ARGV[9]) .. value
  for at = 6, #KEYS do outlive(KEYS[at], ARGV[3]) end
end
redis.call('SET', KEYS[3], value, 'PX', ARGV[3])
redis.call('UNLINK', KEYS[5])
local run = live_run()
if not live_epoch(state, known[1], known[2], run) then
  return { 0, '' }
end
return { append(state, log, ARGV[1], known[1], ARGV[4], '[]', tonumber(ARGV[5]), ARGV[8], run), known[1] }
