-- put_back: end a hold. Files that are in the spool now are due at once; the others are let go of.
--
-- KEYS  1 retry  2 put_back  3 counters
-- ARGV  1 number of files that are in the spool, then their names
--       then name and what was said of it (as given to hold), in turn, of those that are not
--
-- Answers how many of the first are in line, or were when this ran the first time and are claimed.
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
