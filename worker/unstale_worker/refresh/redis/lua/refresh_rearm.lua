-- Stores the kept value of a key again, without a load: its loader's inputs are those that the value was made of.
-- Under the conditions of refresh_fill.lua, and only if this value was filled together with this fingerprint, and the first
-- change since then committed after that fill. An earlier one may have come between the hash of the inputs and the load.
-- KEYS: refresh, dead letters, counts, state, key, stale, failures, spare, fingerprint
-- ARGV: lease, hash of the rules, fingerprint, most milliseconds to live, milliseconds of serve_stale, milliseconds of
--   stale_if_error, name of the refresh
-- Reply: { 1 stored, or 0: the loader has to be called; tokens of the prompt and of the answer that this value cost }
local refresh, dead, counts, state, key, stale, failures, spare, noted = unpack(KEYS)
if not has_type(state, 'hash') then return { 0, 0, 0 } end
if string.match(redis.call('HGET', state, 'rules') or '', '^[^+]*') ~= ARGV[2] then return { 0, 0, 0 } end
if redis.call('TYPE', key)['ok'] ~= 'string' or redis.call('GET', key) ~= ARGV[1] then return { 0, 0, 0 } end
local found = redis.pcall('GET', noted)
if type(found) ~= 'string' then return { 0, 0, 0 } end
local fingerprint, filled_at, sum, lived, tokens_in, tokens_out =
  string.match(found, '^(%x+)\n(%d+)\n(%x+)\n(%d+)\n(%d+)\n(%d+)$')
if fingerprint ~= ARGV[3] then return { 0, 0, 0 } end
-- What is left of its life says when the read began after which its first change committed.
local value, name, bound = redis.pcall('GET', stale), stale, tonumber(ARGV[5])
if type(value) ~= 'string' then
  value, name, bound = redis.pcall('GET', spare), spare, tonumber(ARGV[6])
  value = type(value) == 'string' and string.match(value, '^%d+\n(.*)$')
end
if not value or redis.sha1hex(value) ~= sum or redis.call('PEXPIRETIME', name) - bound <= tonumber(filled_at) then return { 0, 0, 0 } end
local life = math.min(tonumber(lived), tonumber(ARGV[4]))
redis.call('SET', key, value, 'PX', life)
redis.call('UNLINK', stale, failures)
local longer = tonumber(ARGV[6])
if longer > 0 then
  redis.call('SET', spare, ARGV[6] .. '\n' .. value, 'PX', string.format('%.0f', life + longer))
end
found = table.concat({ fingerprint, now_ms(), sum, lived, tokens_in, tokens_out }, '\n')
redis.call('SET', noted, found, 'PX', string.format('%.0f', life + longer + tonumber(ARGV[5])))
if has_type(refresh, 'zset') then redis.call('ZREM', refresh, key) end
if has_type(dead, 'hash') then redis.call('HDEL', dead, key) end
if has_type(counts, 'hash') then
  redis.call('HINCRBY', counts, 'unchanged', 1)
  redis.call('HINCRBY', counts, 'unchanged:' .. ARGV[7], 1)
  redis.call('HINCRBY', counts, 'saved_tokens_in:' .. ARGV[7], tokens_in)
  redis.call('HINCRBY', counts, 'saved_tokens_out:' .. ARGV[7], tokens_out)
end
return { 1, tonumber(tokens_in), tonumber(tokens_out) }
