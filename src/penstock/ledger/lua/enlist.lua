-- enlist: note that a loader runs. The note ends with the loader's time.
--
-- KEYS  1 loaders
-- ARGV  1 the loader's name  2 how long it may live, ms
--
-- Returns how many run. Safe to run twice: a name counts once.
local now = now_ms()
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now)
redis.call('ZADD', KEYS[1], now + tonumber(ARGV[2]), ARGV[1])
return redis.call('ZCARD', KEYS[1])
