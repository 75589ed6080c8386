-- leave: remove a loader that has ended, or could not be started.
--
-- KEYS  1 loaders
-- ARGV  1 the loader's name
--
-- Returns how many are left. Safe to run twice.
redis.call('ZREM', KEYS[1], ARGV[1])
return redis.call('ZCARD', KEYS[1])
