-- orphans: find files that are being processed but that no usable claim holds. Queue them for a retry,
-- due at once.
--
-- KEYS  1 leases  2 json_files_processing  3 retry  4 counters  5 claims: those of an older version
-- ARGV  1 prefix of claim keys  2 1 to queue them, 0 to change nothing  3… names, at most 500
--
-- Returns how many there are. Safe to run twice: a queued file is not an orphan.
local now, found, is_held = now_ms(), 0, {}
for i = 3, #ARGV do
  local name = ARGV[i]
  local id = redis.call('HGET', KEYS[2], name)
  if id and is_held[id] == nil then
    local known = redis.call('ZSCORE', KEYS[1], id) or redis.call('ZSCORE', KEYS[5], id)
    local key = ARGV[1] .. id
    is_held[id] = known and claim_fields(key) ~= nil
    if known and not is_held[id] and ARGV[2] == '1' then drop(KEYS[1], KEYS[4], key, id) end
  end
  if id and not is_held[id] then
    found = found + 1
    if ARGV[2] == '1' then
      redis.call('HDEL', KEYS[2], name)
      if name == '' or string.find(name, '/', 1, true) then  -- not a file's name: nothing is lost
        count(KEYS[4], 'files_vanished', 1)
      else
        redis.call('ZADD', KEYS[3], now, name)
        count(KEYS[4], 'files_orphaned', 1)
      end
    end
  end
end
return found
