-- put_back: end a hold. Files that are in the spool now are due at once; the others are forgotten.
--
-- KEYS  1 retry  2 put_back  3 counters
-- ARGV  1 number of files that are in the spool, then their names
--       then, for each file that is not: name and the operator's note on it (as given to hold)
--
-- Returns how many of the first are queued for a retry, or were at the first run and are claimed by now.
local now = now_ms()
local inside = tonumber(ARGV[1])
local known = 0
for i = 2, inside + 1 do
  redis.call('ZADD', KEYS[1], 'XX', now, ARGV[i])
  known = known + redis.call('HEXISTS', KEYS[2], ARGV[i])
end
for i = inside + 2, #ARGV, 2 do
  if redis.call('HGET', KEYS[2], ARGV[i]) == ARGV[i + 1] and redis.call('ZREM', KEYS[1], ARGV[i]) == 1 then
    redis.call('HDEL', KEYS[2], ARGV[i])
    count(KEYS[3], 'files_vanished', 1)
  end
end
return known
