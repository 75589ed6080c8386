-- reserve: note a loader that is about to be started, if there is room for one more.
--
-- KEYS  1 loaders  2 loader_started  3 counters
-- ARGV  1 the loader's name  2 how long it has to begin, ms  3 most loaders
--       4 pause between two starts, ms
--
-- Returns 1; 0 if enough loaders run, or if one was started so recently that its effect cannot show yet.
-- Safe to run twice: a name keeps its slot.
local now = now_ms()
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now)
if redis.call('ZSCORE', KEYS[1], ARGV[1]) then return 1 end
if redis.call('ZCARD', KEYS[1]) >= tonumber(ARGV[3]) then return 0 end
if now - number_or(redis.call('GET', KEYS[2]), 0) < tonumber(ARGV[4]) then return 0 end
redis.call('SET', KEYS[2], string.format('%.0f', now))
redis.call('ZADD', KEYS[1], now + tonumber(ARGV[2]), ARGV[1])
count(KEYS[3], 'loaders_started', 1)
return 1
